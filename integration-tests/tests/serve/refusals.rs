//! What keeps a broker from starting: one line on standard error that says what to do, nothing on standard output,
//! exit code 2, and no change on disk, down to the times of files.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ottla_integration_tests::broker::ottla;
use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::{Broker, Run, TempDir, binaries};

const FREE_PORTS: [&str; 4] = [
    "--set",
    "listeners=PLAINTEXT://127.0.0.1:0",
    "--set",
    "metrics.listener=127.0.0.1:0",
];

/// What is told of one file or folder.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    modified: (i64, i64),
    len: u64,
    content: Option<u64>,
}

/// A folder and everything below.
fn listing(folder: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        if path.ends_with("durable") {
            // The broker that has the directory writes it shortly after each sync.
            continue;
        }
        let about = fs::symlink_metadata(&path).expect("a path that was listed");
        let content = about.is_file().then(|| {
            let mut hasher = DefaultHasher::new();
            fs::read(&path).expect("a readable file").hash(&mut hasher);
            hasher.finish()
        });
        if about.is_dir() {
            let below = fs::read_dir(&path).expect("a readable folder");
            left.extend(below.map(|entry| entry.expect("an entry").path()));
        }
        let entry = Entry {
            mode: about.mode(),
            modified: (about.mtime(), about.mtime_nsec()),
            len: about.len(),
            content,
        };
        entries.insert(path, entry);
    }
    entries
}

/// Runs what must be refused with a line that holds all of `said`, and compares `folder` before and after.
fn is_refused(run: Run, folder: &Path, said: &[&str]) {
    let before = listing(folder);
    let output = run.timeout(Duration::from_secs(20)).finish();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, "");
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {output:?}");
    assert!(lines[0].starts_with("ottla: "), "{output:?}");
    for part in said {
        assert!(lines[0].contains(part), "{part:?} is not in {:?}", lines[0]);
    }
    assert_eq!(listing(folder), before, "something changed on disk");
}

/// `ottla serve` on free ports over a data directory.
fn serve_over(data: &Path) -> Run {
    let data = format!("log.dirs={}", data.display());
    ottla().args(["serve", "--set", &data]).args(FREE_PORTS)
}

/// A data directory that a broker used and closed; holds one record.
fn used_directory(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    let mut broker = Broker::start(&data, &[]);
    let write = kcat(&broker).args(["-P", "-t", "kept"]).stdin("record\n");
    write.succeed();
    assert!(broker.sigterm().success());
    data
}

/// Nothing was hurt: a broker starts over it, cleanly, and the record is there.
fn is_whole(data: &Path) {
    let broker = Broker::start(data, &[]);
    let read = kcat(&broker).args(["-C", "-t", "kept", "-e", "-q"]);
    assert_eq!(read.succeed().stdout, "record\n");
    assert!(!broker.log().iter().any(|line| line.contains("not clean")));
}

#[test]
fn a_bad_setting_is_named_with_its_value_and_its_place() {
    let folder = TempDir::new("bad-setting");
    let file = folder.path().join("server.properties");
    fs::write(&file, "node.id=1\nnum.partitions=x\n").expect("a file in the test's folder");
    let file = file.display().to_string();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--set", "num.partitions=0"],
            &["num.partitions=0 (--set)", "at least 1"],
        ),
        (
            &["--set", "num.partitions=many"],
            &["num.partitions=many (--set)"],
        ),
        (
            &["--set", "num.partitions=1\n2"],
            &["num.partitions=1\\n2 (--set)"],
        ),
        (
            &["--set", "num.partitions"],
            &["--set num.partitions", "key=value"],
        ),
        (&["--set", "one\ntwo"], &["--set one\\ntwo", "key=value"]),
        (
            &["--set", "listeners=PLAINTEXT://nowhere"],
            &["listeners=PLAINTEXT://nowhere"],
        ),
        (&["--set", "listeners=SSL://127.0.0.1:0"], &["SSL"]),
        (
            &["--set", "metrics.listener=9404"],
            &["metrics.listener=9404"],
        ),
        (&["--set", "node.id=-1"], &["node.id=-1"]),
        (&["--config", &file], &["num.partitions=x", &file, "line 2"]),
        (
            &["--config", "missing"],
            &["cannot read config file missing"],
        ),
    ];
    for (args, said) in cases {
        let run = ottla().args(["serve"]).args(args.iter().copied());
        is_refused(run.folder(folder.path()), folder.path(), said);
    }
}

#[test]
fn a_bad_variable_is_named_and_other_peoples_variables_are_left_alone() {
    let folder = TempDir::new("bad-variable");
    let serve = || ottla().args(["serve"]).folder(folder.path());
    let bad = serve().env("KAFKA_NUM_PARTITIONS", "x");
    is_refused(
        bad,
        folder.path(),
        &["num.partitions=x (environment variable KAFKA_NUM_PARTITIONS)"],
    );
    let no_text = OsStr::from_bytes(b"\xff");
    let bad = serve().env("KAFKA_NUM_PARTITIONS", no_text);
    is_refused(bad, folder.path(), &["KAFKA_NUM_PARTITIONS", "UTF-8"]);
    let other = serve().env("SOMEBODY_ELSE", no_text);
    let refused = other.args(["--set", "num.partitions=0"]);
    is_refused(refused, folder.path(), &["num.partitions=0 (--set)"]);
}

#[test]
fn a_port_in_use_is_named_before_anything_is_made() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("it is bound").to_string();
    let folder = TempDir::new("port-in-use");
    let used = used_directory(folder.path());
    let free = "127.0.0.1:0";
    for (kafka, metrics, key) in [
        (address.as_str(), free, "listeners"),
        (free, address.as_str(), "metrics.listener"),
    ] {
        for data in [&used, &folder.path().join("fresh")] {
            let settings = [
                format!("log.dirs={}", data.display()),
                format!("listeners=PLAINTEXT://{kafka}"),
                format!("metrics.listener={metrics}"),
            ];
            let settings = settings.iter().flat_map(|setting| ["--set", setting]);
            let run = ottla().args(["serve"]).args(settings);
            is_refused(run, folder.path(), &[&address, "in use", key]);
        }
    }
    assert!(!folder.path().join("fresh").exists());
    is_whole(&used);
}

#[test]
fn a_data_directory_in_use_is_left_to_the_broker_that_has_it() {
    let folder = TempDir::new("directory-in-use");
    let data = used_directory(folder.path());
    let broker = Broker::start(&data, &[]);
    let shown = data.display().to_string();
    is_refused(
        serve_over(&data),
        folder.path(),
        &[&shown, "in use by another process", "log.dirs"],
    );
    let read = kcat(&broker).args(["-C", "-t", "kept", "-e", "-q"]);
    assert_eq!(read.succeed().stdout, "record\n");
    drop(broker);
    is_whole(&data);
}

#[test]
fn a_newer_format_and_another_nodes_directory_are_not_touched() {
    let folder = TempDir::new("not-ours");
    let data = used_directory(folder.path());
    let identity = data.join("meta.properties");
    let ours = fs::read_to_string(&identity).expect("the identity");
    for (line, instead, said) in [
        (
            "format.version=1",
            "format.version=99",
            &["format version 99", "reads up to 1"][..],
        ),
        (
            "node.id=1",
            "node.id=7",
            &["node.id is 1", "belongs to node 7"],
        ),
        ("node.id=1", "", &["meta.properties", "node.id is missing"]),
    ] {
        assert!(ours.contains(line), "{ours}");
        fs::write(&identity, ours.replace(line, instead)).expect("a writable identity");
        is_refused(serve_over(&data), folder.path(), said);
    }
    fs::write(&identity, ours).expect("a writable identity");
    let other = serve_over(&data).args(["--set", "node.id=2"]);
    is_refused(other, folder.path(), &["node.id is 2", "belongs to node 1"]);
    is_whole(&data);
    fs::remove_file(&identity).expect("a writable folder");
    is_refused(
        serve_over(&data),
        folder.path(),
        &["meta.properties", "missing"],
    );
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = TempDir::new("not-writable");
    let file = folder.path().join("file");
    fs::write(&file, "in the way").expect("a file in the test's folder");
    let below = file.join("data");
    for data in [&file, &below] {
        let shown = data.display().to_string();
        is_refused(
            serve_over(data),
            folder.path(),
            &[&shown, "Not a directory"],
        );
    }

    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("a folder in the test's folder");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).expect("its owner may");
    for data in [closed.join("data"), closed.clone()] {
        let shown = data.display().to_string();
        let data = format!("log.dirs={shown}");
        let run = bound_by_permissions().args(["serve", "--set", &data]);
        is_refused(
            run.args(FREE_PORTS),
            folder.path(),
            &[&shown, "Permission denied"],
        );
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).expect("its owner may");
}

/// The broker's binary; as root without the capability to write where permissions say no.
fn bound_by_permissions() -> Run {
    if !rustix::process::geteuid().is_root() {
        return ottla();
    }
    let binary: OsString = binaries().join("ottla").into();
    Run::new("setpriv")
        .args(["--bounding-set", "-dac_override,-dac_read_search"])
        .args([binary])
}
