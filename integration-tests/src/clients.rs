//! The stock clients the tests run, each found where `scripts/setup clients` puts it.
//!
//! A client that is missing panics with the line to run.

use std::path::PathBuf;
use std::time::Duration;

use crate::process::Run;
use crate::{Broker, repository};

/// kcat against this broker, quiet about everything but its results and errors unless the test asks otherwise.
pub fn kcat(broker: &Broker) -> Run {
    Run::new("kcat").args(["-b".to_owned(), broker.bootstrap()])
}

/// One of Apache Kafka's own command line tools, by the class its script starts, in a small and quickly started JVM.
pub fn kafka_tool(class: &str) -> Run {
    let jars = present(repository().join(".deps/kafka/lib"));
    let small = [
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
    ];
    // The jars hold no SLF4J binding, so the tools print their results and nothing else but SLF4J's note about it.
    let classpath = format!("{}/*", jars.display());
    Run::new("java")
        .args(small)
        .args(["-cp", &classpath, class])
        .timeout(Duration::from_secs(120))
}

/// The same, told where the broker is.
pub fn kafka_tool_at(broker: &Broker, class: &str, args: &[&str]) -> Run {
    kafka_tool(class)
        .args(["--bootstrap-server", &broker.bootstrap()])
        .args(args.to_vec())
}

/// A script under `compat/confluent-kafka`, run by the Python that has confluent-kafka.
pub fn confluent_kafka(script: &str) -> Run {
    python("confluent-kafka", script)
}

/// The program of `compat/kafka-python`.
pub fn kafka_python() -> Run {
    python("kafka-python", "client.py")
}

/// The program of `compat/aiokafka`.
pub fn aiokafka() -> Run {
    python("aiokafka", "client.py")
}

fn python(client: &str, script: &str) -> Run {
    let python = present(repository().join(".deps/python/bin/python"));
    let script = present(compat(client).join(script));
    Run::new(python)
        .args([script])
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONPATH", compat("python"))
        .timeout(Duration::from_secs(120))
}

/// The small program of `compat/franz-go`.
pub fn franz_go() -> Run {
    go("franz-go")
}

/// The small program of `compat/sarama`.
pub fn sarama() -> Run {
    go("sarama")
}

/// The small program of `compat/kafka-go`.
pub fn kafka_go() -> Run {
    go("kafka-go")
}

fn go(client: &str) -> Run {
    Run::new(present(repository().join(".deps/go").join(client))).timeout(Duration::from_secs(120))
}

/// The program of `compat/kafkajs`, run by Node.js.
pub fn kafkajs() -> Run {
    Run::new("node")
        .args([present(compat("kafkajs").join("client.js"))])
        .env(
            "NODE_PATH",
            present(repository().join(".deps/kafkajs/node_modules")),
        )
        .env("KAFKAJS_NO_PARTITIONER_WARNING", "1")
        .timeout(Duration::from_secs(120))
}

/// The folder of a client's programs and its list of exclusions.
pub fn compat(client: &str) -> PathBuf {
    repository().join("integration-tests/compat").join(client)
}

/// WordNet's data lines (words and their meanings), in file order, without the licence lines at the top of each.
pub fn wordnet_lines() -> Vec<String> {
    let mut lines = Vec::new();
    for part in ["adj", "adv", "noun", "verb"] {
        let path = present(PathBuf::from(format!("/usr/share/wordnet/data.{part}")));
        let text = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let text = String::from_utf8(text).expect("WordNet is ASCII");
        lines.extend(
            text.lines()
                .filter(|line| !line.starts_with("  "))
                .map(|line| line.trim_end().to_owned()),
        );
    }
    lines
}

/// The key of a WordNet line: the first three characters of its first word.
pub fn wordnet_key(line: &str) -> &str {
    let word = line.split(' ').nth(4).unwrap_or("none");
    word.get(..3).unwrap_or(word)
}

fn present(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing; run: scripts/setup clients",
        path.display()
    );
    path
}
