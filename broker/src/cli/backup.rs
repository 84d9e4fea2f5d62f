//! `ottla backup`: a copy of a data directory that a broker starts from, whether a broker runs on it or not.
//!
//! A broker that runs makes the copy itself, asked over its control socket (`control.rs`); a directory that nobody
//! runs on is locked and copied here. Either way the copy is complete or no data directory at all
//! (`ottla_storage::backup`).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ottla_storage::backup::{self, Backup, BackupError};
use ottla_storage::error::OpenError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::check::{self, DataArgs};
use super::failure::{Failure, Result};
use super::output::{Out, counted, size};
use super::{EXIT_DATA_LOST, complain};
use crate::control::{self, Refusal};

/// Answers are one line.
const LONGEST_ANSWER: u64 = 64 << 10;

/// Options of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A new or empty folder for the copy; on the same file system it takes hardly any room
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Which data directory.
    #[command(flatten)]
    pub data: DataArgs,
}

/// Runs it.
pub fn run(args: &BackupArgs) -> ExitCode {
    let mut out = Out::new(args.data.json);
    let outcome = std::path::absolute(&args.target)
        .map_err(|error| Failure::usage(format_args!("{}: {error}", args.target.display())))
        .and_then(|target| backup::resolved(&target).map_err(Failure::usage))
        .and_then(|target| {
            let backup = back_up(&args.data.data, &target)?;
            if out.is_json() {
                out.object(&json!({
                    "backup": target.display().to_string(),
                    "files": backup.files,
                    "bytes": backup.bytes,
                }))?;
            } else {
                out.line(format_args!(
                    "{}, {} in {}",
                    counted(backup.files, "file"),
                    size(backup.bytes),
                    target.display()
                ))?;
                out.line(format_args!(
                    "to serve it: ottla serve --set log.dirs={}",
                    target.display()
                ))?;
            }
            out.flush()
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => check::fail(&failure),
    }
}

fn back_up(data: &Path, target: &Path) -> Result<Backup> {
    match backup::stopped(data, target) {
        Ok(backup) => Ok(backup),
        Err(BackupError::Source(OpenError::InUse { .. })) => ask(data, target),
        Err(BackupError::Source(error @ OpenError::Lost { .. })) => {
            complain(&error);
            Err(Failure::ended(EXIT_DATA_LOST))
        }
        Err(error @ BackupError::Target { .. }) => Err(Failure::usage(error)),
        Err(error) => Err(Failure::refused(error)),
    }
}

/// Has the broker that runs on `data` make the copy. However long that takes: it ends when the broker does.
fn ask(data: &Path, target: &Path) -> Result<Backup> {
    let talk = async {
        let mut stream = control::connect(data).await?;
        let line = [b"backup ", target.as_os_str().as_encoded_bytes(), b"\n"].concat();
        stream.write_all(&line).await?;
        let mut answer = String::new();
        stream
            .take(LONGEST_ANSWER)
            .read_to_string(&mut answer)
            .await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(talk))
        .map_err(|error| {
            Failure::unreachable(format_args!(
                "a process uses {}, but its control socket does not answer: {error}",
                data.display()
            ))
        })?;
    control::parse_answer(&answer).map_err(|refusal| match refusal {
        Refusal::Target(why) => Failure::usage(why),
        Refusal::Other(why) => Failure::refused(why),
    })
}
