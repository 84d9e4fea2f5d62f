//! Child processes with deadlines. Used by the broker harness and every client test.
//!
//! Each child leads a process group of its own, so that killing it also ends what it started. Output is read on
//! threads of its own and never blocks the child.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

/// Text lines as they arrive, to be searched and waited for.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<LinesState>, Condvar)>);

#[derive(Default)]
struct LinesState {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// Waits until `found` makes something of the lines so far, and returns it. `None` when the stream ended
    /// without it or the deadline passed.
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&[String]) -> Option<T>,
    ) -> Option<T> {
        let mut result = None;
        let waiting = |state: &mut LinesState| {
            result = found(&state.lines);
            result.is_none() && !state.ended
        };
        let _state = self.0.1.wait_timeout_while(self.lock(), timeout, waiting);
        result
    }

    /// Waits for the first line that `found` makes something of.
    pub fn wait_for_line<T>(
        &self,
        timeout: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let mut seen = 0;
        self.wait_for(timeout, |lines| {
            let result = lines[seen..].iter().find_map(|line| found(line));
            seen = lines.len();
            result
        })
    }

    /// Waits for the stream's end; false when the deadline passed.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        let waited = self
            .0
            .1
            .wait_timeout_while(self.lock(), timeout, |state| !state.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Reads `stream` to its end on a thread of its own. Bytes that are not UTF-8 are replaced.
    fn read(stream: impl std::io::Read + Send + 'static) -> Lines {
        let lines = Lines::default();
        let filled = lines.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while let Ok(1..) = stream.read_until(b'\n', &mut line) {
                let end = if line.ends_with(b"\n") {
                    line.len() - 1
                } else {
                    line.len()
                };
                filled
                    .lock()
                    .lines
                    .push(String::from_utf8_lossy(&line[..end]).into_owned());
                filled.0.1.notify_all();
                line.clear();
            }
            filled.lock().ended = true;
            filled.0.1.notify_all();
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, LinesState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command to run, with what a finished or running process needs. Start with [`Run::new`].
pub struct Run {
    command: Command,
    shown: String,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

/// What a finished process left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, line ends included.
    pub stdout: String,
    /// Standard error, line ends included.
    pub stderr: String,
}

impl Output {
    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

impl Run {
    /// `program` is looked up in `PATH` unless it holds a slash.
    pub fn new(program: impl Into<OsString>) -> Run {
        let program = program.into();
        let mut command = Command::new(&program);
        command.process_group(0);
        Run {
            command,
            shown: program.to_string_lossy().into_owned(),
            stdin: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Run {
        for arg in args {
            let arg = arg.into();
            self.shown = format!("{} {}", self.shown, arg.to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// The folder it runs in; that of the test without this.
    pub fn folder(mut self, folder: &Path) -> Run {
        self.command.current_dir(folder);
        self
    }

    /// Bytes for standard input, which is closed behind them. Without this it is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = Some(bytes.into());
        self
    }

    /// The deadline of [`Run::finish`]; one minute when not set.
    pub fn timeout(mut self, timeout: Duration) -> Run {
        self.timeout = timeout;
        self
    }

    /// Starts the process and leaves it running.
    pub fn start(mut self) -> Process {
        let input = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        self.command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!(
                "cannot start `{}`: {error}\nrun: scripts/setup clients",
                self.shown
            ),
        };
        let pid = Pid::from_child(&child);
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A child that ends early closes the pipe: not an error here, its status tells.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = Lines::read(child.stdout.take().expect("stdout is piped"));
        let stderr = Lines::read(child.stderr.take().expect("stderr is piped"));
        let exit = Arc::new((Mutex::new(None), Condvar::new()));
        let told = exit.clone();
        std::thread::spawn(move || {
            let status = child
                .wait()
                .expect("the child was not waited for elsewhere");
            *told.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
            told.1.notify_all();
        });
        Process {
            pid,
            shown: self.shown,
            stdout,
            stderr,
            exit,
        }
    }

    /// Runs to the end. Panics with all output when the deadline passes; any exit status is returned.
    pub fn finish(self) -> Output {
        let timeout = self.timeout;
        let process = self.start();
        let Some(status) = process.wait(timeout) else {
            process.signal(Signal::KILL);
            panic!(
                "`{}` did not end within {timeout:?}\n{}",
                process.shown,
                process.output()
            );
        };
        process.stdout.wait_for_end(timeout);
        process.stderr.wait_for_end(timeout);
        let text = |lines: &Lines| {
            lines
                .all()
                .into_iter()
                .map(|line| line + "\n")
                .collect::<String>()
        };
        Output {
            status,
            stdout: text(&process.stdout),
            stderr: text(&process.stderr),
        }
    }

    /// Runs to the end and panics with all output unless the exit status is 0.
    pub fn succeed(self) -> Output {
        let shown = self.shown.clone();
        let output = self.finish();
        assert!(
            output.status.success(),
            "`{shown}` ended with {}\nstdout:\n{}\nstderr:\n{}",
            output.status,
            output.stdout,
            output.stderr
        );
        output
    }
}

/// A started process; killed with its children when dropped.
pub struct Process {
    pid: Pid,
    shown: String,
    /// Standard output so far.
    pub stdout: Lines,
    /// Standard error so far.
    pub stderr: Lines,
    exit: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The command line, for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// How it ended, or `None` when it runs on after the deadline.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let exit = self.exit.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .exit
            .1
            .wait_timeout_while(exit, timeout, |status| status.is_none());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sends a signal to the process and what it started; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        let exit = self.exit.0.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// All output so far, for messages.
    pub fn output(&self) -> String {
        format!(
            "stdout:\n{}\nstderr:\n{}",
            self.stdout.all().join("\n"),
            self.stderr.all().join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_output_comes_out_with_the_exit_status() {
        let output = Run::new("sh")
            .args(["-c", "cat; echo bad >&2; exit 3"])
            .stdin("one\ntwo")
            .finish();
        assert_eq!(output.lines(), ["one", "two"]);
        assert_eq!(
            (output.stderr.as_str(), output.status.code()),
            ("bad\n", Some(3))
        );
    }

    #[test]
    #[should_panic(expected = "did not end within")]
    fn a_process_past_its_deadline_is_killed_and_fails_the_test() {
        Run::new("sleep")
            .args(["60"])
            .timeout(Duration::from_millis(10))
            .finish();
    }

    #[test]
    fn a_line_is_waited_for_until_the_stream_ends() {
        let process = Run::new("sh")
            .args(["-c", "echo ready on 7; echo other"])
            .start();
        let port = |line: &str| line.strip_prefix("ready on ").map(str::to_owned);
        assert_eq!(
            process.stdout.wait_for_line(Duration::from_secs(10), port),
            Some("7".to_owned())
        );
        let never = |line: &str| line.strip_prefix("never").map(str::to_owned);
        assert_eq!(
            process.stdout.wait_for_line(Duration::from_secs(10), never),
            None
        );
    }
}
