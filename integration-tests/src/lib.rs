//! What the integration tests share: a real broker process, deadlines, and the stock clients.
//!
//! Used by the files under `tests/` and `src/bin/`. Nothing here sleeps or reads the clock: every wait is for a
//! line of output or the end of a process, and has a deadline. A client that is not installed fails the test with
//! the line to run; nothing is skipped.
//!
//! Invariants: a process started here is killed, with its children, when its handle is dropped; a broker that
//! logged an ERROR or WARN line that the test did not list fails the test.

pub mod admin;
pub mod apache_kafka;
pub mod broker;
pub mod cli;
pub mod clients;
pub mod exposition;
pub mod group_checks;
pub mod groups;
pub mod http;
pub mod json_client;
pub mod ledger;
pub mod load;
pub mod loop_disk;
pub mod member;
pub mod namespace;
pub mod process;
pub mod record_keeping;
pub mod round_trip;
pub mod shim;
pub mod topics;
pub mod wire;

pub use broker::Broker;
pub use process::{Lines, Output, Process, Run};

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name no other test of this run uses, for topics and folders.
pub fn unique(name: &str) -> String {
    format!(
        "{name}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Where a random test starts: `OTTLA_TEST_SEED`, or a number that differs from run to run. Print it first.
pub fn seed() -> u64 {
    match std::env::var("OTTLA_TEST_SEED") {
        Ok(text) => text.parse().expect("OTTLA_TEST_SEED is a number"),
        Err(_) => RandomState::new().build_hasher().finish(),
    }
}

/// A folder of its own for one test; removed with all that is in it when dropped, kept when the test panics.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes the folder under the system's folder for temporary files.
    pub fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("ottla-{}", unique(name)));
        // A leftover of an earlier process with the same id.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        TempDir(path)
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("the crate lies in a folder of the repository")
        .to_owned()
}

/// The folder that cargo puts binaries of this build in, `<target>/release` for one.
pub fn binaries() -> PathBuf {
    let mut folder = std::env::current_exe().expect("the running test has a path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder
}
