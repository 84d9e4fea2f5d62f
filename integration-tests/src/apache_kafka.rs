//! Apache Kafka 4.3.1 in place of the broker under test: the reference that a test's expectation is checked against.
//!
//! Started by [`crate::Broker`] when `OTTLA_TEST_BROKER=kafka` is set, over the jars of `scripts/setup kafka`. Never
//! part of `make test`. Properties of the test are handed on; those that only Ottla knows are left out.

use std::path::Path;
use std::time::Duration;

use crate::broker::free_port;
use crate::clients::kafka_tool;
use crate::process::{Process, Run};

const START_DEADLINE: Duration = Duration::from_secs(60);
/// Formatting asks for one; which one does not matter.
const CLUSTER_ID: &str = "b3R0bGEtcmVmZXJlbmNlLQ";

/// Whether tests are to run against Apache Kafka.
pub fn wanted() -> bool {
    std::env::var("OTTLA_TEST_BROKER").is_ok_and(|broker| broker == "kafka")
}

/// Starts it over `folder` and waits until it answers. `port` 0, and no listener among the properties, picks one.
pub fn start(folder: &Path, port: u16, properties: &[(String, String)]) -> (Process, u16) {
    let listener = properties.iter().rfind(|(name, _)| name == "listeners");
    let given = listener.and_then(|(_, value)| value.rsplit_once(':')?.1.parse::<u16>().ok());
    let port = match (port, given) {
        (0, None | Some(0)) => free_port(),
        (0, Some(given)) => given,
        (port, _) => port,
    };
    std::fs::create_dir_all(folder).expect("the test's folder can be made");
    let data = folder.join("kafka-data");
    let file = folder.join("kafka.properties");
    let settings = server_properties(&data, port, properties);
    std::fs::write(&file, settings).expect("a file in the test's folder");
    let file = file.display().to_string();
    if !data.join("meta.properties").exists() {
        let format = ["format", "-t", CLUSTER_ID, "-c", &file];
        kafka_tool("kafka.tools.StorageTool").args(format).succeed();
    }
    let process = kafka_tool("kafka.Kafka").args([&file]).start();
    // kcat tries to connect again and again until its own deadline.
    let deadline = START_DEADLINE.as_secs().to_string();
    let address = format!("127.0.0.1:{port}");
    Run::new("kcat")
        .args(["-b", &address, "-L", "-m", &deadline])
        .args(["-X", "reconnect.backoff.max.ms=100"])
        .timeout(2 * START_DEADLINE)
        .succeed();
    (process, port)
}

fn server_properties(data: &Path, port: u16, properties: &[(String, String)]) -> String {
    let controller = free_port();
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n",
        data.display()
    );
    let own = ["listeners", "log.dirs", "metrics.listener"];
    for (name, value) in properties {
        if !own.contains(&name.as_str()) && !name.starts_with("ottla.") {
            text.push_str(&format!("{name}={value}\n"));
        }
    }
    text
}
