//! Completions of shells and the man page, from the definition of the command line.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// The completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "realtime", &mut text);
    text
}

/// The man page of the program or of a command, in roff. `None`: there is no such command.
///
/// # Errors
/// When it cannot be written, which does not happen in memory.
pub fn man(command: Option<&str>) -> io::Result<Option<Vec<u8>>> {
    let mut program = Cli::command();
    program.build();
    let page = match command {
        None => Some(program),
        Some(name) => program.find_subcommand(name).filter(|command| !command.is_hide_set()).cloned(),
    };
    page.map(|page| {
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        Ok(text)
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_of_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(completions(shell)).unwrap();
            assert!(text.contains("doctor") && text.contains("check-config"), "{shell}");
        }
        let page = |name| man(name).unwrap().map(|page| String::from_utf8(page).unwrap());
        assert!(page(None).unwrap().contains("realtime\\-doctor(1)"), "{:?}", page(None));
        assert!(page(Some("doctor")).unwrap().contains("strict"));
        assert_eq!(page(Some("nothing")), None);
        assert_eq!(page(Some("reference")), None);
    }
}
