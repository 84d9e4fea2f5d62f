use std::path::Path;

use super::*;
use crate::config::DynamicConfig;
use crate::topic_config;

const STOCK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/testdata/server.properties"
);

fn load(file: Option<&Path>, env: &[(&str, &str)], sets: &[&str]) -> Result<Loaded, ConfigError> {
    let env = env
        .iter()
        .map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned()));
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Config::load(file, env, &sets)
}

/// A file that goes when the test ends.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn holding(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!(
            "ottla-config-{}-{name}.properties",
            std::process::id()
        ));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn error_of(sets: &[&str]) -> String {
    let error = load(None, &[], sets).expect_err("refused").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_stock_file_of_kafka_starts_without_warnings() {
    let loaded = load(Some(Path::new(STOCK)), &[], &[]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(
        loaded.infos,
        [
            "log.segment.bytes has no effect here: a partition is not cut into segment files; records are deleted batch by batch, and none is kept until a segment is full or old enough",
            "listener CONTROLLER is not opened: controller.listener.names names it, and there is no controller here",
        ]
    );
    let config = loaded.config;
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(
        config.advertised_listeners[0].to_string(),
        "PLAINTEXT://localhost:9092"
    );
    assert_eq!(config.log_dir, Path::new("/tmp/kraft-combined-logs"));
}

#[test]
fn the_command_line_goes_over_the_environment_over_the_file() {
    let file = TemporaryFile::holding(
        "order",
        "num.partitions=2\nnode.id = 2\ndefault.replication.factor=2\n",
    );
    let env = [
        ("KAFKA_NUM_PARTITIONS", "3"),
        ("KAFKA_NODE_ID", "3"),
        ("HOME", "/root"),
    ];
    let loaded = load(Some(&file.0), &env, &["num.partitions=4"]).unwrap();
    assert_eq!(loaded.config.num_partitions, 4);
    assert_eq!(loaded.config.node_id, 3);
    assert_eq!(loaded.config.default_replication_factor, 2);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.sources["num.partitions"], Origin::CommandLine);
    assert_eq!(
        loaded.sources["node.id"],
        Origin::Environment("KAFKA_NODE_ID".to_owned())
    );
    assert_eq!(
        loaded.sources["default.replication.factor"],
        Origin::File {
            path: file.0.clone(),
            line: 3
        }
    );
}

#[test]
fn environment_variables_map_as_in_the_official_image() {
    for (variable, key) in [
        ("KAFKA_NODE_ID", Some("node.id")),
        ("KAFKA_ADVERTISED_LISTENERS", Some("advertised.listeners")),
        ("KAFKA_MY__OWN_KEY", Some("my_own.key")),
        ("KAFKA_MY___OWN_KEY", Some("my-own.key")),
        ("KAFKA_HEAP_OPTS", None),
        ("KAFKA_JMX_PORT", None),
        ("KAFKA_JMX_OPTS", None),
        ("KAFKA_LOG4J_ROOT_LOGLEVEL", None),
        ("KAFKA_LOG4J_LOGGERS", None),
        ("KAFKA_TOOLS_LOG4J_LOGLEVEL", None),
        ("KAFKA_OPTS", None),
        ("KAFKA_VERSION", None),
        ("KAFKA_GC_LOG_OPTS", None),
        ("KAFKA_JVM_PERFORMANCE_OPTS", None),
        ("KAFKA_", None),
        ("KAFKAESQUE", None),
        ("CLUSTER_ID", None),
    ] {
        assert_eq!(property_of(variable).as_deref(), key, "{variable}");
    }
}

#[test]
fn the_official_images_usual_environment_is_read() {
    let env = [
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        (
            "KAFKA_LISTENERS",
            "PLAINTEXT://0.0.0.0:29092,CONTROLLER://0.0.0.0:29093,PLAINTEXT_HOST://0.0.0.0:9092",
        ),
        (
            "KAFKA_ADVERTISED_LISTENERS",
            "PLAINTEXT://broker:29092,PLAINTEXT_HOST://localhost:9092",
        ),
        (
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PLAINTEXT_HOST:PLAINTEXT",
        ),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:29093"),
        ("KAFKA_INTER_BROKER_LISTENER_NAME", "PLAINTEXT"),
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
        ("KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR", "1"),
        ("KAFKA_LOG_DIRS", "/tmp/data"),
    ];
    let loaded = load(None, &env, &[]).unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let shown: Vec<String> = loaded
        .config
        .advertised_listeners
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        [
            "PLAINTEXT://broker:29092",
            "PLAINTEXT_HOST://localhost:9092"
        ]
    );
    assert_eq!(loaded.config.listeners[1].host, "0.0.0.0");
}

#[test]
fn unknown_and_repeated_keys_warn_and_nothing_more() {
    let file = TemporaryFile::holding(
        "odd",
        "num.partition=2\n# a comment\nnum.partitions=2\nnum.partitions=3\nretention.ms=5\n",
    );
    let loaded = load(
        Some(&file.0),
        &[("KAFKA_PORT", "tcp://10.0.0.1:9092")],
        &["colour=blue"],
    )
    .unwrap();
    let path = file.0.display();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            format!("num.partitions: set twice in {path}, at lines 3 and 4; the later one counts"),
            "colour: unknown property, ignored (--set)".to_owned(),
            format!("num.partition: unknown property, ignored ({path} line 1)"),
            "port: unknown property, ignored (environment variable KAFKA_PORT)".to_owned(),
            format!(
                "retention.ms: a topic config, ignored ({path} line 5); its default for all topics is the property log.retention.ms"
            ),
        ]
    );
    assert_eq!(loaded.config.num_partitions, 3);
}

#[test]
fn the_file_is_in_the_format_of_java_properties() {
    let text = "! comment\nbroker.rack : caf\\u00e9 \\\n   terrace\nlisteners=PLAINTEXT\\://127.0.0.1\\:0\n\n";
    let file = TemporaryFile::holding("format", text);
    let config = load(Some(&file.0), &[], &[]).unwrap().config;
    assert_eq!(config.broker_rack.as_deref(), Some("café terrace"));
    assert_eq!(config.listeners[0].port, 0);

    let broken = TemporaryFile::holding("broken", "a=b\nnode.id=\\u12\n");
    let error = load(Some(&broken.0), &[], &[])
        .expect_err("malformed")
        .to_string();
    assert!(
        error.contains(" line 2: not in the format of Java properties"),
        "{error}"
    );

    let error = load(Some(Path::new("/nowhere/server.properties")), &[], &[])
        .expect_err("missing")
        .to_string();
    assert!(
        error.starts_with("cannot read config file /nowhere/server.properties: "),
        "{error}"
    );
}

#[test]
fn a_bad_value_is_refused_with_name_value_range_and_the_way_out() {
    for (set, expected) in [
        (
            "num.partitions=0",
            "num.partitions=0 (--set): must be at least 1; or leave it out (default: 1)",
        ),
        (
            "num.partitions=x",
            "num.partitions=x (--set): not a number of type int; must be at least 1; or leave it out (default: 1)",
        ),
        (
            "fetch.max.bytes=1023",
            "fetch.max.bytes=1023 (--set): must be at least 1024; or leave it out (default: 57671680)",
        ),
        ("compression.gzip.level=0", "must be 1 to 9, or -1"),
        ("log.cleaner.min.cleanable.ratio=1.1", "must be 0 to 1"),
        (
            "log.message.timestamp.type=Never",
            "must be one of CreateTime, LogAppendTime",
        ),
        (
            "log.cleanup.policy=none",
            "must be a list of compact, delete",
        ),
        ("delete.topic.enable=perhaps", "must be true or false"),
        (
            "log.retention.hours=0",
            "log.retention.hours=0 (--set): must be at least 1, or -1 for no limit",
        ),
        (
            "log.dirs=/a,/b",
            "log.dirs=/a,/b (--set): all data lives in one directory; name only one, such as log.dirs=/a",
        ),
        ("log.dir=", "log.dir= (--set): a directory is needed"),
        (
            "metrics.listener=9404",
            "must be host:port, such as 127.0.0.1:9404, or empty",
        ),
        (
            "authorizer.class.name=org.example.Authorizer",
            "must be empty",
        ),
        (
            "listeners=SSL://h:1",
            "listeners=SSL://h:1 (--set): SSL asks for SSL, which is not served yet; only PLAINTEXT is",
        ),
        (
            "listeners=PLAINTEXT://0.0.0.0:9092",
            "advertised.listeners: clients cannot connect to 0.0.0.0; set advertised.listeners=",
        ),
        ("node.id=-1", "must be at least 0"),
        ("broker.rack", "--set broker.rack: must be key=value"),
        ("=5", "--set =5: must be key=value"),
        (
            "num.partitions=1\n2",
            "num.partitions=1\\n2 (--set): not a number",
        ),
    ] {
        let error = error_of(&[set]);
        assert!(error.contains(expected), "{set} gave {error}");
    }
    assert_eq!(
        error_of(&["node.id=1", "broker.id=2"]),
        "broker.id=2 (--set): must be equal to node.id=1; keep only node.id"
    );
    assert!(
        error_of(&[
            "log.cleaner.min.compaction.lag.ms=5",
            "log.cleaner.max.compaction.lag.ms=4"
        ])
        .contains("must not be above")
    );
}

#[test]
fn a_setting_that_is_not_enforced_warns() {
    let warned = |set: &str| load(None, &[], &[set]).unwrap().warnings;
    assert_eq!(warned("transactional.id.expiration.ms=5").len(), 1);
    for harmless in [
        "compression.type=gzip",
        "compression.lz4.level=3",
        "min.insync.replicas=2",
        "unclean.leader.election.enable=false",
        "num.partitions=1",
    ] {
        assert!(warned(harmless).is_empty(), "{harmless}");
    }
}

#[test]
fn random_settings_are_accepted_or_refused_without_a_panic() {
    let seed = 0x0771b;
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let values = [
        "",
        "0",
        "1",
        "-1",
        "-2",
        "2147483647",
        "2147483648",
        "9223372036854775807",
        "1e400",
        "true",
        "a,b",
        "*",
        "0:1",
        "gzip",
        "compact",
        "[::1]:1",
        "é",
    ];
    let mut accepted = 0;
    for _ in 0..3_000 {
        let sets: Vec<String> = (0..rng.usize(1..4))
            .map(|_| {
                let row = &table::BROKER_CONFIGS[rng.usize(0..table::BROKER_CONFIGS.len())];
                format!("{}={}", row.name, values[rng.usize(0..values.len())])
            })
            .collect();
        match Config::load(None, std::iter::empty(), &sets) {
            Ok(loaded) => {
                accepted += 1;
                let dynamic = DynamicConfig::at_start(&loaded.config);
                let described = dynamic.describe(&loaded.config);
                assert_eq!(described.len(), table::BROKER_CONFIGS.len());
                let topic = topic_config::describe(&BTreeMap::new(), &dynamic);
                assert_eq!(topic.len(), topic_table::TOPIC_CONFIGS.len());
            }
            Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
        }
    }
    assert!(accepted > 100, "{accepted}");
}
