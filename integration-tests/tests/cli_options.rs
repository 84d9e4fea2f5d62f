//! What `cli.rs` leaves out: options that change how records are made, configs taken back, and progress.

use std::time::Duration;

use ottla_integration_tests::cli::{command, json_lines, text};
use ottla_integration_tests::{Broker, Run, TempDir, binaries, unique};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn broker(folder: &TempDir) -> Broker {
    Broker::start(folder.path(), &[("num.partitions", "2")])
}

#[test]
fn records_are_made_of_files_json_fixed_keys_and_nothing() {
    let folder = TempDir::new("cli-records");
    let broker = broker(&folder);
    let topic = unique("records");
    let produce = |args: &[&str], lines: &str| {
        let all = [&["produce", &topic, "-p", "0", "--json"], args].concat();
        let said = command(&broker, &all).stdin(lines).succeed().stdout;
        json_lines(&said)
    };
    let written = |first: i64, last: i64| {
        json!({
            "topic": topic, "partition": 0, "records": last - first + 1,
            "first_offset": first, "last_offset": last,
        })
    };
    assert_eq!(produce(&["--key", "same"], "a\nb\n"), [written(0, 1)]);
    assert_eq!(produce(&["--acks", "1"], "leader\n"), [written(2, 2)]);
    // A tombstone and an empty value are not the same.
    assert_eq!(produce(&["-K", ":", "-Z"], "gone:\n"), [written(3, 3)]);
    assert_eq!(produce(&["-K", ":"], "empty:\n"), [written(4, 4)]);
    let files = TempDir::new("cli-files");
    let paths = ["one", "two"].map(|name| {
        let path = files.path().join(name);
        std::fs::write(&path, format!("{name}\n")).expect("a file is written");
        path.display().to_string()
    });
    let args = ["--file", &paths[0], "--file", &paths[1]];
    assert_eq!(produce(&args, ""), [written(5, 6)]);
    let timed =
        r#"{"key":"k","value":"v","timestamp":1700000000000,"headers":[{"name":"h","value":"1"}]}"#;
    assert_eq!(produce(&["--input", "json"], timed), [written(7, 7)]);
    assert_eq!(produce(&[], ""), [] as [Value; 0], "nothing to write");

    let format = r"%p %o %k %K %s %S\n";
    assert_eq!(
        text(&broker, &["consume", &topic, "-e", "-p", "0", "-f", format]),
        "0 0 same 4 a 1\n0 1 same 4 b 1\n0 2  -1 leader 6\n0 3 gone 4  -1\n0 4 empty 5  0\n0 5  -1 one 3\n\
         0 6  -1 two 3\n0 7 k 1 v 1\n"
    );
    let last = ["consume", &topic, "-e", "-p", "0", "--from", "7", "-f"];
    let with_time = [&last[..], &[r"%t %T %h\n"]].concat();
    assert_eq!(
        text(&broker, &with_time),
        format!("{topic} 1700000000000 h=1\n")
    );
    let by_time = [
        "consume",
        &topic,
        "--max",
        "1",
        "--from",
        "2023-11-14T22:13:20Z",
    ];
    assert_eq!(
        text(&broker, &by_time),
        "a\n",
        "the first one not before it"
    );
}

#[test]
fn configs_are_taken_back_and_all_topics_are_shown_when_asked_for() {
    let folder = TempDir::new("cli-unset");
    let broker = broker(&folder);
    command(&broker, &["topic", "create", "a", "b", "-r", "1"]).succeed();
    let alter = ["topic", "alter", "a", "--set", "flush.ms=9", "--set"];
    command(&broker, &[&alter[..], &["retention.ms=7"]].concat()).succeed();
    command(&broker, &["topic", "alter", "a", "--unset", "flush.ms"]).succeed();
    let described = json_lines(&text(&broker, &["topic", "describe", "--json"]));
    let configs: Vec<_> = described
        .iter()
        .map(|topic| (topic["topic"].as_str(), topic["configs"].clone()))
        .collect();
    assert_eq!(
        configs,
        [
            (Some("a"), json!({ "retention.ms": "7" })),
            (Some("b"), json!({}))
        ]
    );
    // The first member of a group makes the topic of groups.
    assert_eq!(text(&broker, &["consume", "a", "-G", "g", "-e"]), "");
    let names = |args: &[&str]| -> Vec<String> {
        let listed = json_lines(&text(&broker, args));
        let name = |topic: &Value| topic["topic"].as_str().map(str::to_owned);
        listed.iter().filter_map(name).collect()
    };
    assert_eq!(names(&["topic", "list", "--json"]), ["a", "b"]);
    assert_eq!(
        names(&["topic", "list", "--json", "--internal"]),
        ["__consumer_offsets", "a", "b"]
    );
    let shown = text(
        &broker,
        &["config", "describe", "topic", "a", "retention.ms", "--doc"],
    );
    let plain = text(
        &broker,
        &["config", "describe", "topic", "a", "retention.ms"],
    );
    assert!(shown.len() > plain.len() + 20, "{shown}{plain}");

    // For all brokers to be, and for this one.
    let key = "message.max.bytes";
    for (verb, setting, value) in [
        ("set", "message.max.bytes=2000000", "2000000"),
        ("unset", key, "1048588"),
    ] {
        command(&broker, &["config", verb, "broker", "1", setting]).succeed();
        let now = json_lines(&text(
            &broker,
            &["config", "describe", "broker", "1", key, "--json"],
        ));
        assert_eq!(now[0]["value"], value, "{verb}");
    }
}

/// A terminal of its own for `ottla`'s standard error, by util-linux' script(1). A line of progress has no end before the
/// next one begins, so that two of them are waited for; then the record comes that ends it all.
#[test]
fn long_work_shows_progress_on_a_terminal_and_nowhere_else() {
    let folder = TempDir::new("cli-progress");
    let broker = broker(&folder);
    let topic = unique("progress");
    let produce = |line: &str| {
        let args = ["produce", &topic, "-p", "0"];
        command(&broker, &args).stdin(line).succeed();
    };
    produce("first\n");
    let ottla = binaries().join("ottla");
    let read = TempDir::new("cli-progress-read")
        .path()
        .with_extension("out");
    let consume = format!(
        "{} consume {topic} --max 2 > {}",
        ottla.display(),
        read.display()
    );
    let on_terminal = format!("script -qefc '{consume}' /dev/null | stdbuf -o0 tr '\\r' '\\n'");
    let running = Run::new("bash")
        .args(["-c", &format!("set -o pipefail; {on_terminal}")])
        .env("OTTLA_BOOTSTRAP", broker.bootstrap())
        .start();
    let wanted = format!("1 record of {topic}");
    let shown = running.stdout.wait_for_line(PATIENCE, |line| {
        line.contains(&wanted).then(|| line.to_owned())
    });
    assert!(shown.is_some(), "{}", running.output());
    produce("second\n");
    let status = running.wait(PATIENCE);
    assert!(
        status.is_some_and(|status| status.success()),
        "{}",
        running.output()
    );
    let printed = std::fs::read_to_string(&read).expect("what was read");
    assert_eq!(
        printed, "first\nsecond\n",
        "results alone go to standard output"
    );

    // The same without a terminal, on work that takes longer than the first line of progress would.
    let quiet = command(&broker, &["consume", &topic, "--max", "3"]).start();
    let two = |lines: &[String]| (lines.len() >= 2).then_some(());
    quiet.stdout.wait_for(PATIENCE, two).expect("both records");
    produce("third\n");
    let status = quiet.wait(PATIENCE);
    assert!(
        status.is_some_and(|status| status.success()),
        "{}",
        quiet.output()
    );
    assert_eq!(quiet.stderr.all(), [] as [String; 0]);
}
