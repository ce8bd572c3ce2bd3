//! A program that does not outlive this process, even if that is killed.

use std::{io, path::Path, process::ExitStatus, process::Stdio};

use tokio::{
    process::{Child, ChildStdin, Command},
    time::{self, Duration},
};

/// Runs the program and stops it when the shell's standard input ends: when we stop it, and when this process is gone for any
/// reason. A shell gives its background jobs no input, hence the third descriptor.
const SUPERVISOR: &str = r#"
exec 3<&0
"$@" </dev/null >>"$LOG" 2>&1 3<&- &
server=$!
(cat <&3 >/dev/null; kill -INT $server 2>/dev/null) &
watcher=$!
exec 3<&-
wait $server
code=$?
kill $watcher 2>/dev/null
[ -z "$REMOVE" ] || rm -rf "$REMOVE"
exit $code
"#;

/// A running program that stops on SIGINT, even if that was ignored when it began, as PostgreSQL and NATS do.
/// Dropping it stops the program, [`stop`](Self::stop) also waits for its end.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    /// Closing it stops the program.
    lifeline: Option<ChildStdin>,
}

impl Supervised {
    /// The command that [`start`](Self::start) starts: arguments of the program, its user and its environment may be added.
    /// Its output is appended to `log`; `remove` is removed when it has ended.
    #[must_use]
    pub fn command(program: &Path, log: &Path, remove: Option<&Path>) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SUPERVISOR, "supervisor"]).arg(program);
        shell.env("LOG", log).env("REMOVE", remove.map_or("".as_ref(), Path::as_os_str));
        shell
    }

    /// Starts it.
    ///
    /// # Errors
    /// When no process can be started. A program that cannot be run shows as one that has ended.
    pub fn start(mut command: Command) -> io::Result<Self> {
        // A process group of its own: Ctrl-C in a terminal reaches us, and we stop the program when we are done.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut shell = command.spawn()?;
        let lifeline = shell.stdin.take();
        Ok(Self { shell, lifeline })
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        self.shell.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Returns when the program has ended: with its code, or 128 and the signal that ended it. Cancel safe.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Stops the program and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(mut self, limit: Duration) -> Result<(), time::error::Elapsed> {
        drop(self.lifeline.take());
        let ended = time::timeout(limit, self.shell.wait()).await;
        if ended.is_err() {
            let _ = self.shell.kill().await;
        }
        ended.map(|_| ())
    }
}
