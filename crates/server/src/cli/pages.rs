//! `realtime completions` and `realtime man`: the options.

use clap::Args;
use clap_complete::Shell;

/// Options of `realtime completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Options of `realtime man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Command whose page is printed [default: the page of the program]
    pub command: Option<String>,
}
