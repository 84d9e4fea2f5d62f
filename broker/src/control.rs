//! The control socket in the data directory: how `ottla backup` asks a running broker for a copy of its data. Only the
//! owner of the broker's process can connect (mode 0600); nothing of it can be reached over a network.
//!
//! One request a connection, one line each way:
//!
//! ```text
//! -> backup /absolute/path
//! <- ok FILES BYTES      or      error WHY      or, where another path is wanted,      target WHY
//! ```
//!
//! Requests are served one after the other by one task, which `start.rs` starts and its stop token ends; the work itself
//! runs on a thread that may block. The socket is there exactly while the broker serves; one that a killed broker left
//! is replaced.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::backup::{self, BackupError};
use ottla_storage::rocks::RocksEngine;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// The socket's name in the data directory.
pub const FILE: &str = "control.sock";

const NEW_FILE: &str = "control.sock.new";

/// Longer than any path that the system takes.
const LONGEST_LINE: u64 = 8 << 10;

/// A client has this long to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that may wait while another one is served.
const BACKLOG: i32 = 4;

/// After a failed accept (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The target is not fit.
    Target(String),
    /// Anything else.
    Other(String),
}

/// The socket in a data directory, named through an open folder: names of sockets are short, paths need not be.
fn through(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Makes the socket. Nobody can connect before its mode is set.
///
/// # Errors
/// The system's.
pub fn bind(dir: &Path) -> io::Result<UnixListener> {
    let folder = File::open(dir)?;
    match fs::remove_file(dir.join(NEW_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(through(&folder, NEW_FILE))?)?;
    fs::set_permissions(dir.join(NEW_FILE), Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    fs::rename(dir.join(NEW_FILE), dir.join(FILE))?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Connects to the broker that runs on `dir`.
///
/// # Errors
/// The system's: there is no socket, or nobody listens.
pub async fn connect(dir: &Path) -> io::Result<UnixStream> {
    let folder = File::open(dir)?;
    UnixStream::connect(through(&folder, FILE)).await
}

/// Serves requests until told to stop, then removes the socket.
pub async fn serve(
    listener: UnixListener,
    engine: Arc<RocksEngine>,
    dir: PathBuf,
    stop: CancellationToken,
) {
    let listener = &listener;
    let mut accept = || async move { listener.accept().await.map(|(stream, _)| stream) };
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = accepted(&mut accept) => stream,
        };
        tokio::select! {
            () = stop.cancelled() => break,
            served = one(stream, &engine, &dir) => {
                if let Err(error) = served {
                    tracing::debug!(%error, "a control connection ended early");
                }
            }
        }
    }
    if let Err(error) = fs::remove_file(dir.join(FILE)) {
        tracing::warn!(%error, "the control socket cannot be removed");
    }
}

/// The next connection. One that cannot be accepted keeps nobody from the next try, and only the first is told.
async fn accepted<T, F, R>(accept: &mut F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = io::Result<T>>,
{
    let mut told = false;
    loop {
        match accept().await {
            Ok(stream) => return stream,
            Err(error) if told => tracing::debug!(%error, "the control socket accepts nothing"),
            Err(error) => {
                tracing::warn!(%error, "the control socket accepts nothing for now");
                told = true;
            }
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn one(stream: UnixStream, engine: &Arc<RocksEngine>, dir: &Path) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let mut bounded = (&mut stream).take(LONGEST_LINE);
    let read = bounded.read_until(b'\n', &mut line);
    tokio::time::timeout(PATIENCE, read).await??;
    let answer = match target(&line) {
        Some(target) => back_up(engine, dir, target).await,
        None => "error the request is not understood\n".to_owned(),
    };
    stream.get_mut().write_all(answer.as_bytes()).await
}

/// The path in a request.
fn target(line: &[u8]) -> Option<PathBuf> {
    let path = line.strip_suffix(b"\n")?.strip_prefix(b"backup ")?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}

async fn back_up(engine: &Arc<RocksEngine>, dir: &Path, target: PathBuf) -> String {
    tracing::info!(target = %target.display(), "a backup begins");
    let (engine, dir, shown) = (engine.clone(), dir.to_owned(), target.clone());
    let made = tokio::task::spawn_blocking(move || backup::live(&engine, &dir, &target)).await;
    match made {
        Ok(Ok(backup)) => {
            tracing::info!(
                target = %shown.display(),
                files = backup.files,
                bytes = backup.bytes,
                "a backup is complete"
            );
            format!("ok {} {}\n", backup.files, backup.bytes)
        }
        Ok(Err(error)) => {
            tracing::warn!(target = %shown.display(), %error, "a backup failed");
            refused(&error)
        }
        Err(error) => {
            tracing::error!(target = %shown.display(), %error, "a backup panicked");
            "error the backup panicked\n".to_owned()
        }
    }
}

fn refused(error: &BackupError) -> String {
    let kind = match error {
        BackupError::Target { .. } => "target",
        BackupError::Source(_) | BackupError::Engine(_) | BackupError::Io { .. } => "error",
    };
    format!("{kind} {}\n", crate::cli::on_one_line(&error.to_string()))
}

/// What a broker answered.
///
/// # Errors
/// Its reason, or that the answer makes no sense.
pub fn parse_answer(answer: &str) -> Result<backup::Backup, Refusal> {
    let line = answer.trim_end();
    if let Some(why) = line.strip_prefix("error ") {
        return Err(Refusal::Other(why.to_owned()));
    }
    if let Some(why) = line.strip_prefix("target ") {
        return Err(Refusal::Target(why.to_owned()));
    }
    let numbers = line.strip_prefix("ok ").and_then(|rest| {
        let (files, bytes) = rest.split_once(' ')?;
        Some(backup::Backup {
            files: files.parse().ok()?,
            bytes: bytes.parse().ok()?,
        })
    });
    numbers.ok_or_else(|| Refusal::Other(format!("the broker answered {line:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_accept_does_not_end_the_socket() {
        let mut tries = 0;
        let mut accept = || {
            tries += 1;
            std::future::ready(if tries < 3 {
                Err(rustix::io::Errno::MFILE.into())
            } else {
                Ok("a connection")
            })
        };
        let next = accepted(&mut accept);
        let next = tokio::time::timeout(Duration::from_secs(60), next).await;
        assert_eq!(next.expect("in time"), "a connection");
        assert_eq!(tries, 3);
    }

    #[test]
    fn requests_and_answers_are_single_lines() {
        assert_eq!(target(b"backup /a b/c\n"), Some(PathBuf::from("/a b/c")));
        for bad in [&b"backup /a"[..], b"restore /a\n", b"", b"\n"] {
            assert_eq!(target(bad), None);
        }
        let backup = backup::Backup { files: 3, bytes: 9 };
        assert_eq!(parse_answer("ok 3 9\n"), Ok(backup));
        let other = Refusal::Other("no room".to_owned());
        assert_eq!(parse_answer("error no room\n"), Err(other));
        let error = BackupError::Target {
            target: "/a".to_owned(),
            why: "is not empty",
        };
        let target = Refusal::Target("/a: is not empty".to_owned());
        assert_eq!(parse_answer(&refused(&error)), Err(target));
        assert!(parse_answer("").is_err());
        assert!(parse_answer("ok 3\n").is_err());
    }
}
