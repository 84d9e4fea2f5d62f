//! The client commands of `ottla` against a real broker process, one scenario a command, beside kcat.
//!
//! JSON is parsed, tables are looked at where people read them, and every exit code that scripts rely on is asserted.

use std::time::Duration;

use ottla_integration_tests::broker::{free_port, ottla};
use ottla_integration_tests::cli::{command, json_lines, text};
use ottla_integration_tests::clients::kcat;
use ottla_integration_tests::{Broker, Output, Process, Run, TempDir, unique};
use rustix::process::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

fn broker(folder: &TempDir) -> Broker {
    let at_once = ("group.initial.rebalance.delay.ms", "0");
    Broker::start(folder.path(), &[("num.partitions", "2"), at_once])
}

fn objects(broker: &Broker, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    json_lines(&text(broker, &args))
}

fn object(broker: &Broker, args: &[&str]) -> Value {
    let mut objects = objects(broker, args);
    assert_eq!(objects.len(), 1, "{args:?}: {objects:?}");
    objects.remove(0)
}

/// Ends with this code, prints no result, and says why in one line that holds all of `said`.
fn refused(run: Run, code: i32, said: &[&str]) {
    let Output {
        status,
        stdout,
        stderr,
    } = run.finish();
    assert_eq!(status.code(), Some(code), "{stdout}{stderr}");
    assert_eq!(stdout, "");
    let line = stderr.strip_suffix('\n').unwrap_or(&stderr);
    assert!(
        line.starts_with("ottla: ") && !line.contains('\n'),
        "{stderr}"
    );
    for word in said {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
}

fn produce(broker: &Broker, topic: &str, args: &[&str], lines: &str) -> String {
    let args: Vec<&str> = ["produce", topic]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    command(broker, &args).stdin(lines).succeed().stdout
}

#[test]
fn topics_are_created_listed_described_altered_and_deleted() {
    let folder = TempDir::new("cli-topic");
    let broker = broker(&folder);
    let created = text(
        &broker,
        &[
            "topic",
            "create",
            "orders",
            "-p",
            "3",
            "-c",
            "retention.ms=60000",
        ],
    );
    assert_eq!(created, "created orders with 3 partitions\n");
    assert_eq!(
        object(&broker, &["topic", "create", "defaults"])["partitions"],
        2
    );

    refused(
        command(&broker, &["topic", "create", "orders"]),
        1,
        &["topic orders", "TOPIC_ALREADY_EXISTS", "--if-not-exists"],
    );
    assert_eq!(
        object(&broker, &["topic", "create", "orders", "--if-not-exists"])["created"],
        false
    );
    refused(
        command(&broker, &["topic", "create", "a b"]),
        1,
        &["INVALID_TOPIC_EXCEPTION"],
    );
    refused(
        command(
            &broker,
            &["topic", "create", "c", "-c", "retention.ms=soon"],
        ),
        1,
        &["topic c", "retention.ms", "INVALID_CONFIG"],
    );

    assert_eq!(
        text(&broker, &["topic", "list"]),
        "TOPIC     PARTITIONS  REPLICAS\ndefaults           2         1\norders             3         1\n"
    );
    let listed = objects(&broker, &["topic", "list"]);
    assert_eq!(
        (&listed[1]["topic"], &listed[1]["partitions"]),
        (&json!("orders"), &json!(3))
    );

    assert_eq!(
        text(&broker, &["topic", "alter", "orders", "--partitions", "4"]),
        "orders has 4 partitions now\n"
    );
    refused(
        command(&broker, &["topic", "alter", "orders", "-p", "2"]),
        1,
        &["orders", "INVALID_PARTITIONS"],
    );
    produce(&broker, "orders", &["-p", "3"], "one\ntwo\n");
    let described = object(&broker, &["topic", "describe", "orders"]);
    assert_eq!(described["configs"], json!({ "retention.ms": "60000" }));
    assert_eq!(described["partitions"][3]["end"], 2);
    assert_eq!(
        described["partitions"][3]["leader"],
        described["partitions"][3]["replicas"][0]
    );
    let shown = text(&broker, &["topic", "describe", "orders"]);
    assert!(
        shown.starts_with("orders: 4 partitions, 1 replica, id "),
        "{shown}"
    );
    assert!(
        shown.contains("\n  retention.ms=60000\nPARTITION  LEADER  REPLICAS  ISR  START  END\n"),
        "{shown}"
    );
    refused(
        command(&broker, &["topic", "describe", "nope"]),
        1,
        &["topic nope", "ottla topic create nope"],
    );

    assert_eq!(
        text(&broker, &["topic", "delete", "orders", "defaults"]),
        "deleted orders\ndeleted defaults\n"
    );
    refused(
        command(&broker, &["topic", "delete", "orders"]),
        1,
        &["topic orders", "--if-exists"],
    );
    assert_eq!(
        object(&broker, &["topic", "delete", "orders", "--if-exists"])["deleted"],
        false
    );
    assert_eq!(objects(&broker, &["topic", "list"]), [] as [Value; 0]);
}

#[test]
fn kcat_reads_what_ottla_produced() {
    let folder = TempDir::new("cli-produce");
    let broker = broker(&folder);
    let said = produce(
        &broker,
        "greetings",
        &["-K", ":", "-H", "from=ottla", "-p", "1"],
        "ada:hello\ngrace:a:b\nalone\nada:\n",
    );
    assert_eq!(
        said,
        "4 records written to greetings: partition 1 at offsets 0 to 3\n"
    );
    let read = |format: &str| {
        let args = ["-C", "-e", "-q", "-t", "greetings", "-p", "1", "-f", format];
        kcat(&broker).args(args).succeed().stdout
    };
    assert_eq!(
        read("%o %k %K %s %S %h\\n"),
        "0 ada 3 hello 5 from=ottla\n1 grace 5 a:b 3 from=ottla\n2  -1 alone 5 from=ottla\n3 ada 3  0 from=ottla\n"
    );

    // Keys go where Kafka's own producer sends them.
    let keyed: String = (0..200).map(|n| format!("key{n}:{n}\n")).collect();
    command(&broker, &["topic", "create", "ours", "theirs", "-p", "7"]).succeed();
    produce(&broker, "ours", &["-K", ":"], &keyed);
    let murmur2 = [
        "-P",
        "-t",
        "theirs",
        "-K",
        ":",
        "-X",
        "topic.partitioner=murmur2",
    ];
    kcat(&broker).args(murmur2).stdin(keyed).succeed();
    let places = |topic: &str| {
        let printed = text(&broker, &["consume", topic, "-e", "-f", "%k %p\\n"]);
        let mut places: Vec<String> = printed.lines().map(str::to_owned).collect();
        places.sort_unstable();
        assert_eq!(places.len(), 200);
        places
    };
    assert_eq!(places("ours"), places("theirs"));

    refused(
        command(&broker, &["produce", "ours", "-p", "7"]).stdin("x\n"),
        1,
        &["ours", "no partition 7", "0 to 6"],
    );
    refused(
        command(&broker, &["produce", "a b"]).stdin("x\n"),
        1,
        &["topic a b", "INVALID_TOPIC_EXCEPTION"],
    );
    refused(
        command(&broker, &["produce", "ours", "-H", "x"]).stdin("x\n"),
        2,
        &["--header", "NAME=VALUE"],
    );
    refused(
        command(&broker, &["produce", "ours", "--file", "/no/such"]),
        2,
        &["/no/such"],
    );
    let too_large = "x".repeat(1_100_000);
    refused(
        command(&broker, &["produce", "ours", "-p", "0"]).stdin(too_large),
        1,
        &["partition 0", "MESSAGE_TOO_LARGE"],
    );
    // What stands before a bad line is written, and the exit code tells.
    let half = command(&broker, &["produce", "half", "--input", "json", "-p", "0"])
        .stdin("{\"value\":\"a\"}\nb\n")
        .finish();
    assert_eq!(half.status.code(), Some(2));
    assert_eq!(
        half.stdout,
        "1 record written to half: partition 0 at offset 0\n"
    );
    assert!(
        half.stderr.contains("line 2 of the input"),
        "{}",
        half.stderr
    );
}

#[test]
fn ottla_consumes_what_kcat_produced_from_every_kind_of_start() {
    let folder = TempDir::new("cli-consume");
    let broker = broker(&folder);
    let lines: String = (0..100).map(|n| format!("k{n}:{n}\n")).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let args = [
            "-P", "-t", "numbers", "-p", "0", "-K", ":", "-H", "h=1", "-z", codec,
        ];
        kcat(&broker).args(args).stdin(lines.as_str()).succeed();
    }
    let read = |args: &[&str]| {
        let args: Vec<&str> = ["consume", "numbers"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        text(&broker, &args)
    };
    let all = read(&["-e", "-f", "%t %p %o %k %s %h\\n"]);
    let expected = (0..500).map(|at| format!("numbers 0 {at} k{0} {0} h=1\n", at % 100));
    assert_eq!(all, expected.collect::<String>());
    assert_eq!(read(&["--max", "3"]), "0\n1\n2\n");
    assert_eq!(read(&["--from", "498", "-e", "-p", "0"]), "98\n99\n");
    assert_eq!(read(&["--from", "-1", "-e"]), "99\n");
    assert_eq!(read(&["--from", "latest", "-e"]), "");
    assert_eq!(read(&["--from", "@1", "--max", "1"]), "0\n");
    assert_eq!(read(&["--from", "-1h", "--max", "1"]), "0\n");
    assert_eq!(read(&["--from", "2099-01-01", "-e"]), "");

    let records = json_lines(&read(&["-e", "--json", "--from", "-2"]));
    assert_eq!(records.len(), 2);
    assert_eq!(
        (&records[1]["key"], &records[1]["offset"]),
        (&json!("k99"), &json!(499))
    );
    assert_eq!(
        records[1]["headers"],
        json!([{ "name": "h", "value": "1" }])
    );
    // The time of a record finds that record.
    let from = format!("@{}", records[0]["timestamp"]);
    let found = json_lines(&read(&["--json", "--max", "1", "--from", &from]));
    assert_eq!(found[0]["timestamp"], records[0]["timestamp"]);

    // JSON goes from one topic to another as it is: null, empty, and bytes that are no text.
    kcat(&broker)
        .args(["-P", "-t", "odd", "-p", "0", "-K", ":"])
        .stdin(&b"k:\xff\xfe\n:empty key\n"[..])
        .succeed();
    kcat(&broker)
        .args(["-P", "-t", "odd", "-p", "0", "-K", ":", "-Z"])
        .stdin("dead:\n")
        .succeed();
    let odd = text(&broker, &["consume", "odd", "-e", "--json"]);
    assert_eq!(json_lines(&odd)[0]["value_base64"], "//4=");
    produce(&broker, "copy", &["--input", "json"], &odd);
    let copy = text(&broker, &["consume", "copy", "-e", "--json"]);
    assert_eq!(copy, odd.replace("\"topic\":\"odd\"", "\"topic\":\"copy\""));

    refused(
        command(&broker, &["consume", "nope"]),
        1,
        &["topic nope", "ottla topic list"],
    );
    refused(
        command(&broker, &["consume", "numbers", "-p", "2"]),
        1,
        &["no partition 2"],
    );
    refused(
        command(&broker, &["consume", "numbers", "--from", "501", "-p", "0"]),
        1,
        &["offset 501", "0 to 500"],
    );
    refused(
        command(&broker, &["consume", "numbers", "--from", "soon"]),
        2,
        &["\"soon\"", "earliest"],
    );
    refused(
        command(&broker, &["consume", "numbers", "-f", "%q"]),
        2,
        &["--format", "%q", "%k key"],
    );
}

/// Starts a consumer that runs on, its records as `partition value`.
fn start_ottla(broker: &Broker, topic: &str, group: &str) -> Process {
    let args = ["consume", topic, "--group", group, "-f", "%p %s\\n"];
    command(broker, &args).start()
}

/// How many partitions each member owns, in a group that is not rebalancing.
fn members(broker: &Broker, group: &str) -> Option<Vec<usize>> {
    let output = command(broker, &["group", "describe", group, "--json"]).finish();
    let described = json_lines(&output.stdout);
    let state = described.first().map(|group| group["state"].clone());
    let settled = [None, Some(json!("Stable")), Some(json!("Empty"))].contains(&state);
    let members = described
        .first()
        .and_then(|group| group["members"].as_array().cloned());
    let mut owned: Vec<usize> = members
        .unwrap_or_default()
        .iter()
        .map(|member| member["partitions"].as_array().map_or(0, Vec::len))
        .collect();
    owned.sort_unstable();
    settled.then_some(owned)
}

/// Asks until the members own so many partitions each. Each question is a process of its own, which is pause enough.
fn wait_for_members(broker: &Broker, group: &str, wanted: &[usize]) {
    let mut last = None;
    for _ in 0..2_000 {
        last = members(broker, group);
        if last.as_deref() == Some(wanted) {
            return;
        }
    }
    panic!("members own {last:?} partitions, wanted {wanted:?}");
}

#[test]
fn a_group_is_shared_with_kcat_and_its_offsets_are_kept() {
    let folder = TempDir::new("cli-group");
    let broker = broker(&folder);
    let group = unique("shared");
    command(&broker, &["topic", "create", "work"]).succeed();
    let kcat_member = kcat(&broker)
        .args([
            "-G",
            &group,
            "-q",
            "-u",
            "-X",
            "auto.offset.reset=earliest",
            "-X",
            "partition.assignment.strategy=range,roundrobin",
        ])
        .args([
            "-X",
            "auto.commit.interval.ms=100",
            "-f",
            "%p %s\\n",
            "work",
        ])
        .start();
    wait_for_members(&broker, &group, &[2]);
    let ours = start_ottla(&broker, "work", &group);
    wait_for_members(&broker, &group, &[1, 1]);
    let third = start_ottla(&broker, "work", &group);
    wait_for_members(&broker, &group, &[0, 1, 1]);
    third.signal(Signal::TERM);
    assert_eq!(
        third.wait(PATIENCE).and_then(|status| status.code()),
        Some(0),
        "{}",
        third.output()
    );
    wait_for_members(&broker, &group, &[1, 1]);

    for partition in ["0", "1"] {
        produce(&broker, "work", &["-p", partition], "first\n");
    }
    let one = |lines: &[String]| lines.first().cloned();
    let read_by_us = ours
        .stdout
        .wait_for(PATIENCE, one)
        .expect("a record for us");
    let read_by_kcat = kcat_member
        .stdout
        .wait_for(PATIENCE, one)
        .expect("a record for kcat");
    let mut read = [read_by_us.as_str(), read_by_kcat.as_str()];
    read.sort_unstable();
    assert_eq!(read, ["0 first", "1 first"]);

    refused(
        command(&broker, &["group", "delete", &group]),
        1,
        &["NON_EMPTY_GROUP", "stop its members"],
    );
    refused(
        command(
            &broker,
            &["group", "reset", &group, "--to", "earliest", "--execute"],
        ),
        1,
        &["2 members", "stop them first"],
    );
    let described = text(&broker, &["group", "describe", &group]);
    assert!(
        described.starts_with(&format!(
            "{group}: Stable, 2 members, assignor range, coordinator 1\n"
        )),
        "{described}"
    );

    // Ctrl-C: what we read is committed, and kcat takes over at once and goes on behind it.
    ours.signal(Signal::INT);
    assert_eq!(
        ours.wait(PATIENCE).and_then(|status| status.code()),
        Some(0),
        "{}",
        ours.output()
    );
    assert_eq!(ours.stdout.all().len(), 1, "{}", ours.output());
    wait_for_members(&broker, &group, &[2]);
    for partition in ["0", "1"] {
        produce(&broker, "work", &["-p", partition], "second\n");
    }
    let three = |lines: &[String]| (lines.len() >= 3).then(|| lines[1..].to_vec());
    let mut taken = kcat_member
        .stdout
        .wait_for(PATIENCE, three)
        .expect("both records");
    taken.sort_unstable();
    assert_eq!(taken, ["0 second", "1 second"]);

    // And the other way round: kcat leaves, we go on where it committed.
    kcat_member.signal(Signal::INT);
    kcat_member.wait(PATIENCE).expect("kcat ends");
    wait_for_members(&broker, &group, &[]);
    produce(&broker, "work", &["-p", "0"], "third\n");
    assert_eq!(
        text(&broker, &["consume", "work", "-G", &group, "-e"]),
        "third\n"
    );
    let described = object(&broker, &["group", "describe", &group]);
    assert_eq!(described["state"], "Empty");
    for offsets in described["offsets"].as_array().expect("offsets") {
        assert_eq!(
            (&offsets["lag"], &offsets["committed"]),
            (&json!(0), &offsets["end"]),
            "{described}"
        );
    }
}

#[test]
fn consumers_go_on_when_their_broker_comes_back() {
    let folder = TempDir::new("cli-restart");
    let port = format!("PLAINTEXT://127.0.0.1:{}", free_port());
    let at_once = ("group.initial.rebalance.delay.ms", "0");
    let mut broker = Broker::start(folder.path(), &[("listeners", &port), at_once]);
    produce(&broker, "log", &[], "before\n");
    let member = start_ottla(&broker, "log", "readers");
    let alone = command(&broker, &["consume", "log", "--timeout", "60"]).start();
    let lines =
        |wanted: usize| move |lines: &[String]| (lines.len() >= wanted).then(|| lines.to_vec());
    alone.stdout.wait_for(PATIENCE, lines(1)).expect("a record");
    member
        .stdout
        .wait_for(PATIENCE, lines(1))
        .expect("a record");
    broker.kill9();
    broker.restart();
    produce(&broker, "log", &[], "after\n");
    let read = alone.stdout.wait_for(PATIENCE, lines(2));
    assert_eq!(
        read.as_deref(),
        Some(&["before".to_owned(), "after".to_owned()][..])
    );
    let read = member
        .stdout
        .wait_for(PATIENCE, lines(2))
        .expect("a record");
    assert_eq!(read.last().map(String::as_str), Some("0 after"), "{read:?}");
    for consumer in [alone, member] {
        consumer.signal(Signal::INT);
        let status = consumer.wait(PATIENCE).and_then(|status| status.code());
        assert_eq!(status, Some(0), "{}", consumer.output());
    }
    // Nobody is there for longer than it was told to wait.
    let waiting = command(&broker, &["consume", "log", "--timeout", "0.5"]).start();
    waiting
        .stdout
        .wait_for(PATIENCE, lines(2))
        .expect("both records");
    broker.kill9();
    let status = waiting.wait(PATIENCE).and_then(|status| status.code());
    assert_eq!(status, Some(3), "{}", waiting.output());
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    let folder = TempDir::new("cli-reset");
    let broker = broker(&folder);
    produce(
        &broker,
        "log",
        &["-p", "0"],
        &(0..10).map(|n| format!("{n}\n")).collect::<String>(),
    );
    produce(&broker, "log", &["-p", "1"], "a\nb\n");
    let consume = |args: &[&str]| {
        let args: Vec<&str> = ["consume", "log", "-G", "readers"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        text(&broker, &args)
    };
    assert_eq!(consume(&["-e"]).lines().count(), 12);
    assert_eq!(consume(&["-e"]), "", "committed");

    let listed = object(&broker, &["group", "list"]);
    assert_eq!(
        (&listed["group"], &listed["state"]),
        (&json!("readers"), &json!("Empty"))
    );
    let shown = text(&broker, &["group", "describe", "readers"]);
    assert_eq!(
        shown,
        "readers: Empty, 0 members, coordinator 1\n\
         TOPIC  PARTITION  COMMITTED  END  LAG  MEMBER  HOST\n\
         log            0         10   10    0       -     -\n\
         log            1          2    2    0       -     -\n"
    );

    let reset = |args: &[&str]| -> Vec<(i64, i64)> {
        let args: Vec<&str> = ["group", "reset", "readers"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let number = |value: &Value| {
            value
                .as_i64()
                .unwrap_or_else(|| panic!("{value} is no number"))
        };
        let objects = objects(&broker, &args);
        objects
            .iter()
            .map(|object| (number(&object["partition"]), number(&object["new"])))
            .collect()
    };
    // Shown, not done.
    assert_eq!(reset(&["--to", "earliest"]), [(0, 0), (1, 0)]);
    let dry = command(&broker, &["group", "reset", "readers", "--to", "earliest"]).succeed();
    assert!(dry.stderr.contains("--execute"), "{}", dry.stderr);
    assert_eq!(consume(&["-e"]), "");
    assert_eq!(
        reset(&["--shift", "-3", "--topic", "log:0", "--execute"]),
        [(0, 7)]
    );
    assert_eq!(consume(&["-e"]), "7\n8\n9\n");
    assert_eq!(
        reset(&["--to", "8", "--execute", "--topic", "log"]),
        [(0, 8), (1, 2)],
        "kept within the log"
    );
    assert_eq!(consume(&["--max", "1"]), "8\n");
    assert_eq!(consume(&["-e"]), "9\n", "a commit after --max");
    assert_eq!(reset(&["--to", "-1h", "--execute"]), [(0, 0), (1, 0)]);
    assert_eq!(reset(&["--to", "latest", "--execute"]), [(0, 10), (1, 2)]);
    assert_eq!(reset(&["--to", "-1", "--execute"]), [(0, 9), (1, 1)]);
    assert_eq!(consume(&["-e"]).lines().count(), 2);
    // A group that never was can be given a start.
    let fresh = [
        "group",
        "reset",
        "fresh",
        "--to",
        "latest",
        "--topic",
        "log",
        "--execute",
    ];
    assert_eq!(objects(&broker, &fresh).len(), 2);
    assert_eq!(text(&broker, &["consume", "log", "-G", "fresh", "-e"]), "");

    let nowhere = command(&broker, &["group", "reset", "readers"]).finish();
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(nowhere.stderr.contains("--to"), "{}", nowhere.stderr);
    refused(
        command(&broker, &["group", "reset", "new", "--to", "earliest"]),
        1,
        &["group new", "--topic"],
    );
    refused(
        command(
            &broker,
            &[
                "group", "reset", "readers", "--to", "earliest", "--topic", "log:5",
            ],
        ),
        1,
        &["no partition 5"],
    );
    refused(
        command(&broker, &["group", "describe", "nope"]),
        1,
        &["group nope", "ottla group list"],
    );
    assert_eq!(
        text(&broker, &["group", "delete", "readers", "fresh"]),
        "deleted readers\ndeleted fresh\n"
    );
    refused(
        command(&broker, &["group", "delete", "readers"]),
        1,
        &["group readers"],
    );
}

#[test]
fn configs_are_listed_and_described() {
    let folder = TempDir::new("cli-config");
    let broker = broker(&folder);
    command(
        &broker,
        &["topic", "create", "t", "-c", "max.message.bytes=5000"],
    )
    .succeed();
    let listed = objects(&broker, &["config", "list"]);
    let of = |name: &str| {
        let found = listed.iter().find(|config| config["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {listed:?}"))
    };
    assert_eq!(
        (
            &of("num.partitions")["value"],
            &of("num.partitions")["resource"]
        ),
        (&json!("2"), &json!("broker"))
    );
    assert_eq!(
        (
            &of("max.message.bytes")["value"],
            &of("max.message.bytes")["source"]
        ),
        (&json!("5000"), &json!("topic"))
    );
    let one = object(
        &broker,
        &["config", "describe", "topic", "t", "max.message.bytes"],
    );
    assert_eq!(
        (&one["type"], &one["value"]),
        (&json!("int"), &json!("5000"))
    );
    assert!(
        one["documentation"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{one}"
    );
    let shown = text(
        &broker,
        &["config", "describe", "broker", "1", "num.partitions"],
    );
    assert!(
        shown.starts_with("PROPERTY        VALUE  SOURCE"),
        "{shown}"
    );
    refused(
        command(&broker, &["config", "describe", "topic", "nope"]),
        1,
        &["topic nope"],
    );
    refused(
        command(&broker, &["config", "describe", "topic", "t", "nope"]),
        1,
        &["no property nope"],
    );
    refused(
        command(&broker, &["config", "describe", "broker", "7"]),
        1,
        &["broker 7", "[1]"],
    );
    refused(
        command(&broker, &["config", "set", "topic", "t", "retention.ms"]),
        2,
        &["KEY=VALUE"],
    );
}

#[test]
fn configs_are_set_and_unset() {
    let folder = TempDir::new("cli-config-set");
    let broker = broker(&folder);
    let topic = unique("set");
    command(&broker, &["topic", "create", &topic]).succeed();
    let value = || {
        let config = object(
            &broker,
            &["config", "describe", "topic", &topic, "retention.ms"],
        );
        (config["value"].clone(), config["source"].clone())
    };
    let set = command(
        &broker,
        &["config", "set", "topic", &topic, "retention.ms=5000"],
    );
    assert_eq!(
        set.succeed().stdout,
        format!("set retention.ms=5000 on topic {topic}\n")
    );
    assert_eq!(value(), (json!("5000"), json!("topic")));
    let wrong = command(
        &broker,
        &["config", "set", "topic", &topic, "retention.ms=soon"],
    );
    refused(wrong, 1, &[&topic, "retention.ms", "INVALID_CONFIG"]);
    let unset = command(
        &broker,
        &["config", "unset", "topic", &topic, "retention.ms"],
    );
    assert_eq!(
        unset.succeed().stdout,
        format!("unset retention.ms on topic {topic}\n")
    );
    assert_eq!(value().0, json!("604800000"));
    let altered = ["topic", "alter", &topic, "--set", "max.message.bytes=9000"];
    command(&broker, &altered).succeed();
    let described = object(&broker, &["topic", "describe", &topic]);
    assert_eq!(described["configs"], json!({ "max.message.bytes": "9000" }));
    refused(
        command(
            &broker,
            &["config", "set", "topic", "nope", "retention.ms=1"],
        ),
        1,
        &["topic nope"],
    );
}

fn doctor(broker: &Broker, metrics_port: Option<u16>) -> (Option<i32>, Vec<Value>) {
    let metrics = format!("127.0.0.1:{}", metrics_port.expect("a metrics port"));
    let output = command(broker, &["doctor", "--json", "--metrics", &metrics]).finish();
    (output.status.code(), json_lines(&output.stdout))
}

fn verdicts<'a>(lines: &'a [Value], check: &str) -> Vec<&'a str> {
    let of = lines.iter().filter(|line| line["check"] == check);
    of.filter_map(|line| line["verdict"].as_str()).collect()
}

#[test]
fn the_doctor_finds_what_keeps_clients_away() {
    let folder = TempDir::new("cli-doctor");
    let well = broker(&folder);
    let (code, lines) = doctor(&well, well.metrics_port());
    assert_eq!(code, Some(0), "{lines:?}");
    for check in [
        "reachable",
        "cluster",
        "advertised listener",
        "partitions",
        "metrics",
        "clock",
    ] {
        assert_eq!(verdicts(&lines, check), ["ok"], "{check}: {lines:?}");
    }
    // How these are depends on the machine; they are looked at, and nothing here may fail for them.
    for check in [
        "disk",
        "broker's open files",
        "broker's memory",
        "open files here",
        "memory here",
    ] {
        let found = verdicts(&lines, check);
        assert!(found == ["ok"] || found == ["warn"], "{check}: {lines:?}");
    }
    let (code, lines) = doctor(&well, Some(1));
    assert_eq!(
        (code, verdicts(&lines, "metrics")),
        (Some(0), vec!["warn"]),
        "{lines:?}"
    );

    // Advertised where nothing listens, and where another cluster is.
    for (name, advertised) in [
        ("nowhere", "127.0.0.1:1".to_owned()),
        ("unresolved", "no-such-host.invalid:9092".to_owned()),
        ("other", well.bootstrap()),
    ] {
        let folder = TempDir::new("cli-doctor-ill");
        let advertised = format!("PLAINTEXT://{advertised}");
        let ill = Broker::start(folder.path(), &[("advertised.listeners", &advertised)]);
        let (code, lines) = doctor(&ill, ill.metrics_port());
        assert_eq!(
            (code, verdicts(&lines, "advertised listener")),
            (Some(1), vec!["fail"]),
            "{name}: {lines:?}"
        );
        let line = lines
            .iter()
            .find(|line| line["verdict"] == "fail")
            .expect("a failed check");
        assert!(
            line["way_out"]
                .as_str()
                .is_some_and(|text| text.contains("advertised.listeners")),
            "{line}"
        );
    }

    let nobody = ottla()
        .args(["doctor", "--bootstrap", "127.0.0.1:1"])
        .finish();
    assert_eq!(nobody.status.code(), Some(3));
    assert!(
        nobody
            .stdout
            .starts_with("fail  reachable: cannot connect to 127.0.0.1:1"),
        "{}",
        nobody.stdout
    );
}

#[test]
fn exit_codes_tell_scripts_whose_turn_it_is() {
    let folder = TempDir::new("cli-exit");
    let broker = broker(&folder);
    for args in [
        &["topic", "list"][..],
        &["produce", "t"],
        &["consume", "t"],
        &["group", "list"],
        &["config", "list"],
    ] {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--bootstrap", "127.0.0.1:1"])
            .collect();
        refused(ottla().args(args), 3, &["127.0.0.1:1", "--bootstrap"]);
    }
    // Something else answers there: the metrics page.
    let http = format!(
        "127.0.0.1:{}",
        broker.metrics_port().expect("a metrics port")
    );
    refused(
        ottla().args(["topic", "list", "-b", &http]),
        3,
        &[&http, "Kafka's protocol"],
    );
    refused(
        ottla().args(["topic", "list", "-b", "nowhere"]),
        2,
        &["\"nowhere\"", "HOST:PORT"],
    );
    refused(
        command(&broker, &["topic", "list", "--timeout", "0"]),
        2,
        &["--timeout"],
    );
    for wrong in [
        &["topic"][..],
        &["topic", "create"],
        &["consume"],
        &["nonsense"],
        &["topic", "alter", "t"],
    ] {
        assert_eq!(
            command(&broker, wrong).finish().status.code(),
            Some(2),
            "{wrong:?}"
        );
    }
    let help = ottla().args(["--help"]).succeed().stdout;
    assert!(help.contains("3  no broker could be reached"), "{help}");
    // Who has read enough closes the pipe; that is no failure.
    let lines: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
    produce(&broker, "long", &[], &lines);
    let consume = format!(
        "set -o pipefail; {} consume long -e | head -1",
        ottla_path()
    );
    let piped = Run::new("bash")
        .args(["-c", &consume])
        .env("OTTLA_BOOTSTRAP", broker.bootstrap())
        .succeed();
    // Of which partition the first one is, is left to chance.
    let first: Vec<&str> = piped.stdout.lines().collect();
    assert!(
        first.len() == 1 && first[0].starts_with("line "),
        "{first:?}"
    );
    assert_eq!(piped.stderr, "");
}

fn ottla_path() -> String {
    ottla_integration_tests::binaries()
        .join("ottla")
        .display()
        .to_string()
}
