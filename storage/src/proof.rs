//! Whether everything that was safe on disk is still there: looked at before RocksDB opens a data directory, because
//! its recovery drops what it cannot read, says nothing and overwrites the evidence. Called by the broker at start and
//! by `ottla check`; `examine` changes nothing.
//!
//! It goes the way RocksDB will go: `CURRENT` names the manifest, the manifest the first write-ahead log that is
//! needed, and their records have sequence numbers without a gap. It is compared with the newest slot of the `durable`
//! file, and with the notes in the log itself (`wal.rs`). Then:
//!
//! | found | what happens |
//! |---|---|
//! | all that the slot or a note says is synced | the broker opens the directory |
//! | less than that; or changed bits before a valid record | a `Finding`: refused, unless the loss is accepted |
//! | a hole that looks unwritten before records that no note says were synced | usual after a power cut: what lies behind the hole goes, because RocksDB might go on behind it |
//! | a record cut off at the end | usual after a kill or a power cut: RocksDB drops it |
//! | behind the end of a log what is left of the file's earlier life | usual; it goes, so that RocksDB never sees it |
//! | any doubt about `meta` | its views are dropped and made again from the log |
//!
//! What cannot be told from a torn write: damage to the last group commit after the newest slot, and a file that was
//! cut off within what was synced after that slot (100 ms at most).

mod finding;
mod replay;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, failed, sync_folder};
use crate::durable::keeper::log_numbers;
use crate::durable::{self, Found, ManifestMark, Slot};
use crate::error::OpenError;
use crate::manifest;
use crate::wal::Seen;

pub use self::finding::Finding;
use self::replay::{End, Replay, file_name, replay, scan};

/// A database as it lies there.
#[derive(Debug)]
struct Database {
    manifest: u64,
    manifest_good: u64,
    /// The logs that RocksDB would replay.
    logs: Vec<u64>,
    /// The first log number that is needed.
    first: u64,
}

enum Looked {
    /// Nothing that belongs to a database.
    Empty,
    /// Files of one, but no way into it.
    NoCurrent,
    There(Database),
}

/// A manifest alone is what a first start leaves that was cut short.
fn holds_data(name: &str) -> bool {
    [".log", ".sst", ".blob"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Whether a database has more than what RocksDB makes when it is new: its log, empty.
fn anything_written(folder: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if holds_data(&entry.file_name().to_string_lossy()) && entry.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn look(folder: &Path, one_family: bool) -> io::Result<Looked> {
    let present = match fs::read_dir(folder) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looked::Empty),
        Err(error) => return Err(error),
    };
    let any = present
        .iter()
        .any(|entry| holds_data(&entry.file_name().to_string_lossy()));
    let number = match fs::read(folder.join("CURRENT")) {
        Ok(bytes) => String::from_utf8(bytes)
            .ok()
            .and_then(|text| manifest::parse_current(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let Some(number) = number else {
        return Ok(if any {
            Looked::NoCurrent
        } else {
            Looked::Empty
        });
    };
    let path = folder.join(manifest::name(number));
    if !path.exists() {
        return Ok(Looked::NoCurrent);
    }
    let mut first = 0;
    // A manifest's fragments carry no number.
    let scanner = scan(&path, 0, &mut |seen| {
        if let Seen::Record { head, .. } = seen {
            manifest::first_log(head, one_family, &mut first);
        }
    })?;
    let mut logs = log_numbers(folder)?;
    logs.retain(|log| *log >= first);
    Ok(Looked::There(Database {
        manifest: number,
        manifest_good: scanner.finish().0,
        logs,
        first,
    }))
}

fn manifest_lost(database: &Database, known: ManifestMark) -> bool {
    database.manifest < known.number
        || (database.manifest == known.number && database.manifest_good < known.bytes)
}

/// Where the log is cut before RocksDB sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    log: u64,
    at: u64,
    /// Logs after it, which go.
    later: Vec<u64>,
}

/// What to do about a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLoss {
    /// Refuse the directory.
    Refuse,
    /// Go on without what is missing.
    Accept,
}

/// What was found in a data directory.
#[derive(Debug, Default)]
pub struct Proof {
    /// What was safe and is not there.
    pub findings: Vec<Finding>,
    /// The views are in doubt.
    pub drop_views: bool,
    /// There is a log, but no `durable` file beside it.
    pub unproven: bool,
    cut: Option<Cut>,
    /// Logs, and how far they go before what is left of earlier ones.
    leftovers: Vec<(u64, u64)>,
}

impl Proof {
    /// Looks at the data directory `dir`, which is locked or does not run. Changes nothing.
    ///
    /// # Errors
    /// The system's. What is missing or damaged is no error, but a finding.
    pub fn examine(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(durable::FILE);
        let found = durable::read(dir).map_err(failed("cannot read", &path))?;
        let read = || -> io::Result<Self> {
            let mut proof = Self::default();
            let slot = match found {
                Found::Slot(slot) => Some(slot),
                Found::Absent => None,
                Found::Damaged => {
                    proof.findings.push(Finding::NoProof);
                    None
                }
                Found::Blank => {
                    if anything_written(&dir.join("log"))? {
                        proof.findings.push(Finding::NoProof);
                    }
                    None
                }
            };
            match look(&dir.join("log"), true)? {
                Looked::Empty => {
                    if slot
                        .as_ref()
                        .is_some_and(|slot| slot.log_manifest.number > 0)
                    {
                        proof.findings.push(Finding::Gone { folder: "log" });
                    }
                }
                Looked::NoCurrent => proof.findings.push(Finding::NoCurrent {
                    file: "log/CURRENT".to_owned(),
                }),
                Looked::There(database) => {
                    proof.unproven = slot.is_none();
                    proof.log(&dir.join("log"), &database, slot.as_ref())?;
                }
            }
            let known = slot.map(|slot| slot.meta_manifest).unwrap_or_default();
            proof.drop_views = views_in_doubt(&dir.join("meta"), known)?;
            Ok(proof)
        };
        read().map_err(failed("cannot read", dir))
    }

    fn log(&mut self, folder: &Path, database: &Database, slot: Option<&Slot>) -> io::Result<()> {
        let nothing = Slot::default();
        let slot = slot.unwrap_or(&nothing);
        if manifest_lost(database, slot.log_manifest) {
            self.findings.push(Finding::Manifest {
                file: format!("log/{}", manifest::name(database.manifest)),
                good: database.manifest_good,
                known: slot.log_manifest,
            });
        }
        let known: Vec<_> = slot
            .logs
            .iter()
            .filter(|log| log.number >= database.first)
            .collect();
        for log in &known {
            if !database.logs.contains(&log.number) {
                self.findings.push(Finding::MissingLog {
                    file: format!("log/{}", file_name(log.number)),
                });
            }
        }
        let begins = known.first().copied();
        let expected = begins
            .filter(|begins| {
                database
                    .logs
                    .first()
                    .is_none_or(|first| *first >= begins.number)
            })
            .map(|begins| begins.first);
        let mut replay = replay(folder, &database.logs, expected, slot.key)?;
        if database.logs.is_empty() {
            replay.good.0 = begins.map_or(database.first, |begins| begins.number);
        }
        self.leftovers = std::mem::take(&mut replay.leftovers);
        let slot_says = begins.map_or(0, |_| slot.sequence);
        // Where no log is needed that held any of it, all of it is in tables.
        let in_tables = if begins.is_none() { slot.sequence } else { 0 };
        self.compare(&replay, slot_says, in_tables, database);
        Ok(())
    }

    /// Compares what would be replayed with what was synced: `slot_says`, and what notes behind a hole say. What is
    /// `in_tables` needs no log.
    fn compare(&mut self, replay: &Replay, slot_says: u64, in_tables: u64, database: &Database) {
        let synced = slot_says.max(replay.behind.map_or(0, |behind| behind.synced_to));
        let next = replay.next.unwrap_or(in_tables + 1);
        let (log, at) = replay.good;
        let end = replay.end.unwrap_or(End {
            log,
            at,
            unwritten: true,
        });
        let file = || format!("log/{}", file_name(end.log));
        if synced >= next {
            self.findings.push(Finding::Lost {
                file: file(),
                at: end.at,
                from: next,
                to: synced,
            });
        } else if let Some(behind) = replay.behind
            && !end.unwritten
        {
            self.findings.push(Finding::Damaged {
                file: file(),
                at: end.at,
                behind_file: format!("log/{}", file_name(behind.log)),
                behind: behind.at,
            });
        }
        if replay.behind.is_some() {
            self.cut = Some(Cut {
                log: end.log,
                at: end.at,
                later: database
                    .logs
                    .iter()
                    .copied()
                    .filter(|log| *log > end.log)
                    .collect(),
            });
        }
    }

    /// Whether a broker may open `dir`, of which this is the proof.
    ///
    /// # Errors
    /// All findings, unless they are accepted and can be.
    pub fn judge(&self, dir: &Path, on_loss: OnLoss) -> Result<(), OpenError> {
        let acceptable = self.can_be_accepted();
        if self.findings.is_empty() || (acceptable && on_loss == OnLoss::Accept) {
            return Ok(());
        }
        Err(OpenError::Lost {
            dir: dir.display().to_string(),
            findings: self.findings.clone(),
            acceptable,
        })
    }

    /// Whether a broker may go on when it was told to accept the loss.
    pub fn can_be_accepted(&self) -> bool {
        !self
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::NoCurrent { .. }))
    }

    /// Makes the directory one that RocksDB opens without a hole: cuts the log where it can no longer be read, and
    /// drops views that are in doubt. What is cut off although it had been safe stays beside the log, in files whose
    /// names end with `.cut`.
    ///
    /// # Errors
    /// The system's; to be called again by the next start then.
    pub fn prepare(&self, dir: &Path) -> Result<(), OpenError> {
        if let Some(cut) = &self.cut {
            tracing::warn!(
                file = file_name(cut.log),
                at = cut.at,
                later_files = cut.later.len(),
                "the log has a hole, what lies behind it goes"
            );
            let folder = dir.join("log");
            cut.perform(&folder, !self.findings.is_empty())
                .map_err(failed("cannot cut the log in", &folder))?;
            sync_folder(&Disk, &folder)?;
        }
        for (log, end) in &self.leftovers {
            let path = dir.join("log").join(file_name(*log));
            // Unless it was behind the hole.
            if path.exists() {
                cut_off(&path, *end, !self.findings.is_empty())
                    .map_err(failed("cannot cut", &path))?;
            }
        }
        if self.drop_views {
            let folder = dir.join("meta");
            tracing::warn!(folder = %folder.display(), "views are in doubt and made again from the log");
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("cannot remove", &folder)(error));
                }
                _ => sync_folder(&Disk, dir)?,
            }
        }
        Ok(())
    }
}

impl Cut {
    /// The last log goes first, so that a crash in between leaves a hole that is found again.
    fn perform(&self, folder: &Path, keep: bool) -> io::Result<()> {
        for log in self.later.iter().rev() {
            let path = folder.join(file_name(*log));
            if keep {
                fs::rename(&path, kept(&path))?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        cut_off(&folder.join(file_name(self.log)), self.at, keep)
    }
}

/// Where what is cut off a log stays.
fn kept(path: &Path) -> PathBuf {
    path.with_extension("log.cut")
}

/// Cuts a log after so many bytes; `keep`: a copy of it stays.
fn cut_off(path: &Path, bytes: u64, keep: bool) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.metadata()?.len() <= bytes {
        return Ok(());
    }
    let kept = kept(path);
    if keep && !kept.exists() {
        let half = path.with_extension("log.cutting");
        fs::copy(path, &half)?;
        File::open(&half)?.sync_all()?;
        fs::rename(&half, kept)?;
    }
    file.set_len(bytes)?;
    file.sync_all()
}

/// Whether the views cannot be trusted. They need no sync and may end early, but must not have a hole.
fn views_in_doubt(folder: &Path, known: ManifestMark) -> io::Result<bool> {
    match look(folder, false)? {
        Looked::Empty => Ok(false),
        Looked::NoCurrent => Ok(true),
        Looked::There(database) => {
            if manifest_lost(&database, known) {
                return Ok(true);
            }
            Ok(replay(folder, &database.logs, None, None)?.behind.is_some())
        }
    }
}
