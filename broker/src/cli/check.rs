//! `ottla check`: reads a data directory that no broker runs on, to the last byte, and says what is damaged: topic,
//! partition and offset, or the file.
//!
//! It changes nothing in the directory. What is looked at: `meta.properties`; everything that a start would prove
//! (`ottla_storage::proof`); every checksum of blob files; every key and value that can be reached, and with them the
//! checksums of the files they lie in; each batch's header, CRC-32C and place; what is kept beside batches. Gaps
//! between offsets are what compaction leaves. Views in `meta` are read, but damage to them costs nothing: a start
//! makes them again.

mod names;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use ottla_storage::blob::{self, Blobs};
use ottla_storage::directory::Held;
use ottla_storage::engine::{Engine, Family, Start};
use ottla_storage::error::{EngineError, OpenError};
use ottla_storage::keys::{Handle, PartitionId};
use ottla_storage::proof::Proof;
use ottla_storage::rocks::{RocksEngine, RocksOptions};
use ottla_storage::verify::{self, Place};
use serde_json::{Value, json};

use super::failure::{Failure, Kind, Result};
use super::output::{Bar, Out, counted, remark, size};
use super::{EXIT_DATA_LOST, complain};
use names::Names;

/// Bytes read between two looks at the progress.
const PIECE_BYTES: u64 = 4 << 20;

/// Which data directory, and how to print.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The data directory, as log.dirs names it
    #[arg(long, value_name = "DIR", default_value = "ottla-data")]
    pub data: PathBuf,
    /// Print one JSON object a line, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Which data directory.
    #[command(flatten)]
    pub data: DataArgs,
}

/// Ends the process, with a line unless everything was said.
pub(super) fn fail(failure: &Failure) -> ExitCode {
    if failure.kind != Kind::OutputClosed && !failure.is_said() {
        complain(failure);
    }
    ExitCode::from(failure.exit_code())
}

/// Runs it.
pub fn run(args: &CheckArgs) -> ExitCode {
    let mut check = Check {
        out: Out::new(args.data.json),
        problems: 0,
        partitions: 0,
        batches: 0,
        bytes: 0,
    };
    let outcome = check.directory(&args.data.data);
    let flushed = check.out.flush();
    match outcome.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

struct Check {
    out: Out,
    problems: u64,
    partitions: u64,
    batches: u64,
    bytes: u64,
}

/// A folder for what RocksDB writes about itself, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ottla-check-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            remark(format_args!("{} is left: {error}", self.0.display()));
        }
    }
}

impl Check {
    fn directory(&mut self, data: &Path) -> Result<()> {
        let _held = Held::hold(data).map_err(Failure::usage)?;
        let proof = match Proof::examine(data) {
            Ok(proof) => proof,
            // Without it nothing more can be said about the directory.
            Err(error @ OpenError::Io { .. }) => {
                self.problem(json!({ "what": "proof" }), error)?;
                return self.end();
            }
            Err(error) => return Err(Failure::refused(error)),
        };
        for finding in &proof.findings {
            self.problem(json!({ "what": "proof" }), finding)?;
        }
        if proof.unproven {
            remark("there is no durable file: whether anything is missing cannot be told");
        }
        if proof.drop_views {
            remark("views in meta are in doubt; the next start makes them again");
        }
        let log = data.join("log");
        if !log.join("CURRENT").exists() {
            return self.end();
        }
        let blobs = sized(&log, ".blob").map_err(|error| unreadable(&log, &error))?;
        let tables = sized(&log, ".sst").map_err(|error| unreadable(&log, &error))?;
        // Values are read twice: as they lie in the files, and by their keys.
        let blob_bytes: u64 = blobs.iter().map(|(_, bytes)| bytes).sum();
        let table_bytes: u64 = tables.iter().map(|(_, bytes)| bytes).sum();
        let mut bar = Bar::new(blob_bytes * 2 + table_bytes);
        for (path, bytes) in &blobs {
            self.blob(path, *bytes, &mut bar)?;
        }
        let scratch = Scratch::new()
            .map_err(|error| Failure::refused(format_args!("no temporary folder: {error}")))?;
        match RocksEngine::open_read_only(data, &scratch.0, &RocksOptions::default()) {
            Ok(engine) => self.store(&engine, &mut bar)?,
            // The directory is there and ours: what cannot be read of it lies on a bad sector.
            Err(EngineError::Corruption(why) | EngineError::Io(why)) => {
                self.problem(json!({ "what": "store" }), format_args!("the store: {why}"))?;
            }
            Err(error) => return Err(Failure::refused(error)),
        }
        bar.end();
        self.end()
    }

    /// Reads a blob file as it lies there.
    fn blob(&mut self, path: &Path, bytes: u64, bar: &mut Bar) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let mut file = io::BufReader::with_capacity(1 << 20, file);
        let mut read = 0;
        let found = blob::verify(&mut file, bytes, &mut |passed| {
            read += passed;
            bar.passed(passed);
        });
        let found = match found {
            Ok(found) => found,
            // A bad sector. What it holds is told by its key when the store is read.
            Err(error) => {
                let text = format!("log/{name} behind byte {read}: {error}");
                let place = json!({ "file": format!("log/{name}"), "byte": read });
                return self.problem(place, text);
            }
        };
        match found {
            Blobs::Whole { .. } => Ok(()),
            Blobs::Unfinished => {
                remark(format_args!(
                    "log/{name} has no end: cut off, or never finished"
                ));
                Ok(())
            }
            Blobs::Damaged { at, why } => {
                let text = format!("log/{name} at byte {at}: {why}");
                self.problem(json!({ "file": format!("log/{name}"), "byte": at }), text)
            }
        }
    }

    fn store(&mut self, engine: &RocksEngine, bar: &mut Bar) -> Result<()> {
        let mut problems = Vec::new();
        let bindings = match verify::bindings(engine, &mut |problem| problems.push(problem)) {
            Ok(bindings) => bindings,
            Err(error) => {
                let text = format!("the list of partitions: {error}");
                return self.problem(json!({ "what": "bindings" }), text);
            }
        };
        for problem in problems.drain(..) {
            self.problem(json!({ "what": "bindings" }), problem)?;
        }
        let names = Names::read(engine);
        for (id, handle) in bindings {
            self.partition(engine, &names, id, handle, bar)?;
        }
        for family in Family::ALL.into_iter().filter(|family| !family.in_log()) {
            let mut keep_on = |_: &[u8], _: &[u8]| std::ops::ControlFlow::Continue(());
            if let Err(error) = engine.scan(family, Start::At(&[]), &[0xff; 64], &mut keep_on) {
                remark(format_args!(
                    "views in meta are damaged and would be made again: {error}"
                ));
            }
        }
        Ok(())
    }

    fn partition(
        &mut self,
        engine: &RocksEngine,
        names: &Names,
        id: PartitionId,
        handle: Handle,
        bar: &mut Bar,
    ) -> Result<()> {
        let topic = names.topic(id);
        let mut problems = Vec::new();
        let refused = |error: EngineError| {
            Failure::refused(format_args!("{topic}-{}: {error}", id.partition))
        };
        verify::derived(engine, handle, &|| false, &mut |problem| {
            problems.push(problem);
        })
        .map_err(refused)?;
        let mut next = Some(Place::default());
        while let Some(place) = next {
            let walked = verify::batches(engine, handle, place, PIECE_BYTES, &mut |problem| {
                problems.push(problem);
            })
            .map_err(refused)?;
            self.batches += walked.batches;
            self.bytes += walked.bytes;
            bar.passed(walked.bytes);
            next = walked.next;
        }
        self.partitions += 1;
        for problem in problems {
            let place = json!({
                "topic": topic, "partition": id.partition, "offset": problem.offset(),
            });
            self.problem(place, format_args!("{topic}-{}: {problem}", id.partition))?;
        }
        Ok(())
    }

    fn problem(&mut self, mut place: Value, text: impl std::fmt::Display) -> Result<()> {
        self.problems += 1;
        if self.out.is_json() {
            place["problem"] = Value::String(text.to_string());
            self.out.object(&place)?;
        } else {
            let text = format!("damaged: {text}");
            self.out.line(super::on_one_line(&text))?;
        }
        self.out.flush()
    }

    fn end(&mut self) -> Result<()> {
        if self.out.is_json() {
            self.out.object(&json!({
                "partitions": self.partitions,
                "batches": self.batches,
                "bytes": self.bytes,
                "problems": self.problems,
            }))?;
        } else {
            self.out.line(format_args!(
                "{}, {}, {}: {}",
                counted(self.partitions, "partition"),
                counted_batches(self.batches),
                size(self.bytes),
                counted(self.problems, "problem")
            ))?;
        }
        if self.problems == 0 {
            return Ok(());
        }
        Err(Failure::ended(EXIT_DATA_LOST))
    }
}

fn counted_batches(batches: u64) -> String {
    format!("{batches} batch{}", if batches == 1 { "" } else { "es" })
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::refused(format_args!("{}: {error}", path.display()))
}

/// The files of a folder whose names end so, with their sizes, in order.
fn sized(folder: &Path, end: &str) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(end) {
            files.push((entry.path(), entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}
