//! Writes the page of `/metrics`, group by group, each family once.
//!
//! Called by `Metrics::render`. Only reads.

use super::families::{self, ENGINE_PROPERTIES};
use super::groups;
use super::partitions::Snapshot;
use super::request::{ApiMetrics, QUANTILES};
use super::text::{Text, labels};
use super::{Detail, EngineSource, HostSource, Inner, lock, process, topic};

/// Shares in thousandths, and the label the JMX exporter makes of Kafka's percentile attributes.
const PERMILLE: [u64; 6] = [500, 750, 950, 980, 990, 999];
const QUANTILE_LABELS: [&str; 6] = ["0.50", "0.75", "0.95", "0.98", "0.99", "0.999"];

/// The whole page.
pub(super) fn page(metrics: &Inner) -> String {
    let mut text = Text::default();
    text.reserve(64 * 1024);
    metrics.registered.write(&mut text);
    process(&mut text);
    if let Some(host) = source(&metrics.host) {
        host_values(&mut text, &*host, metrics.idle_share());
    }
    if let Some(engine) = source(&metrics.engine) {
        engine_properties(&mut text, &*engine);
    }
    topics(&mut text, metrics);
    requests(&mut text, metrics);
    let snapshot = source(&metrics.partitions)
        .map(|partitions| Snapshot::take(&*partitions))
        .unwrap_or_default();
    let groups = source(&metrics.groups).map_or_else(groups::Snapshot::empty, |source| {
        groups::Snapshot::take(&*source, metrics.detail)
    });
    counts(&mut text, metrics, &snapshot);
    groups.write_counts(&mut text);
    let mut partitions_left_out = 0;
    if metrics.detail >= Detail::Topic {
        snapshot.write_topics(&mut text);
        groups.write_groups(&mut text);
    }
    if metrics.detail >= Detail::Partition {
        partitions_left_out = snapshot.write_partitions(&mut text);
    }
    text.head(&families::LEFT_OUT);
    for (section, samples) in [
        ("groups", groups.left_out()),
        ("partitions", partitions_left_out),
    ] {
        text.sample(
            &families::LEFT_OUT,
            &labels(&[("section", section)]),
            samples,
        );
    }
    text.into_string()
}

/// The source if one was given and still lives.
fn source<S: ?Sized>(
    slot: &std::sync::Mutex<Option<std::sync::Weak<S>>>,
) -> Option<std::sync::Arc<S>> {
    lock(slot).as_ref()?.upgrade()
}

fn process(text: &mut Text) {
    if let Some(bytes) = process::disk_bytes() {
        text.single(&families::DISK_READ_BYTES, bytes.read);
        text.single(&families::DISK_WRITE_BYTES, bytes.written);
    }
    let usage = process::usage();
    for (family, seconds) in [
        (&families::PROCESS_CPU_SECONDS, usage.cpu_seconds),
        (&families::PROCESS_START_SECONDS, usage.start_seconds),
    ] {
        if let Some(seconds) = seconds {
            text.single(family, seconds);
        }
    }
    for (family, value) in [
        (&families::PROCESS_OPEN_FDS, usage.open_fds),
        (&families::PROCESS_MAX_FDS, usage.max_fds),
        (&families::PROCESS_VIRTUAL_BYTES, usage.virtual_bytes),
        (&families::PROCESS_RESIDENT_BYTES, usage.resident_bytes),
    ] {
        if let Some(value) = value {
            text.single(family, value);
        }
    }
}

fn host_values(text: &mut Text, host: &dyn HostSource, idle: Option<f64>) {
    if let Some(idle) = idle {
        text.single(&families::REQUEST_HANDLER_IDLE, idle);
        text.single(&families::NETWORK_PROCESSOR_IDLE, idle);
    }
    if let Some(space) = host.disk_space() {
        text.single(&families::DISK_FREE_BYTES, space.free_bytes);
        text.single(&families::DISK_TOTAL_BYTES, space.total_bytes);
    }
    text.single(&families::DISK_LEVEL, host.disk_level() as u64);
}

fn engine_properties(text: &mut Text, engine: &dyn EngineSource) {
    let properties = engine.properties();
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for (name, value) in properties {
        match ENGINE_PROPERTIES.iter().find(|(known, _)| *known == name) {
            Some((_, family)) => named.push((*family, value)),
            None => others.push((name, value)),
        }
    }
    for (family, value) in named {
        text.single(family, value);
    }
    if !others.is_empty() {
        text.head(&families::ENGINE_PROPERTY);
    }
    for (name, value) in others {
        text.sample(
            &families::ENGINE_PROPERTY,
            &labels(&[("name", name)]),
            value,
        );
    }
}

fn topics(text: &mut Text, metrics: &Inner) {
    let by_topic: Vec<(String, _)> = match metrics.detail {
        Detail::Cluster => Vec::new(),
        Detail::Topic | Detail::Partition => {
            let topics = metrics.topics.sorted().into_iter();
            topics
                .map(|(name, values)| (labels(&[("topic", &name)]), values))
                .collect()
        }
    };
    let all = metrics.topics.all();
    for (at, family) in topic::FAMILIES.into_iter().enumerate() {
        text.head(family);
        text.sample(family, "", all[at]);
        for (labels, values) in &by_topic {
            text.sample(family, labels, values[at]);
        }
    }
}

fn requests(text: &mut Text, metrics: &Inner) {
    let used = metrics.apis.used();
    let apis: Vec<&ApiMetrics> = used.filter(|api| api.is_used()).collect();
    if apis.is_empty() {
        return;
    }
    text.head(&families::REQUESTS);
    for api in &apis {
        for (version, count) in api.requests() {
            for name in names(api) {
                let labels = labels(&[("request", name), ("version", &version)]);
                text.sample(&families::REQUESTS, &labels, count);
            }
        }
    }
    text.head(&families::ERRORS);
    for api in &apis {
        for (error, count) in api.errors() {
            let labels = labels(&[("request", api.name()), ("error", error)]);
            text.sample(&families::ERRORS, &labels, count);
        }
    }
    for (row, quantiles) in QUANTILES.iter().enumerate() {
        text.head(quantiles.values);
        for api in &apis {
            let values = api.quantiles(row).quantiles(PERMILLE);
            for name in names(api) {
                for (quantile, value) in QUANTILE_LABELS.into_iter().zip(values) {
                    let labels = labels(&[("request", name), ("quantile", quantile)]);
                    text.sample(quantiles.values, &labels, value / quantiles.scale);
                }
            }
        }
        text.head(quantiles.count);
        for api in &apis {
            let count = api.quantiles(row).count();
            for name in names(api) {
                text.sample(quantiles.count, &labels(&[("request", name)]), count);
            }
        }
    }
}

/// Kafka counts a consumer's fetch twice: as Fetch and as FetchConsumer (`RequestChannel.updateRequestMetrics`).
/// Dashboards ask for the second. Followers do not fetch yet.
fn names(api: &ApiMetrics) -> impl Iterator<Item = &str> {
    let consumer = (api.name() == "Fetch").then_some("FetchConsumer");
    [api.name()].into_iter().chain(consumer)
}

fn counts(text: &mut Text, metrics: &Inner, snapshot: &Snapshot) {
    let totals = snapshot.totals();
    let offline = if metrics.registered.offline_log_directories.get() > 0 {
        totals.hosted
    } else {
        0
    };
    for (family, value) in [
        (&families::PARTITION_COUNT, totals.hosted),
        (&families::LEADER_COUNT, totals.led),
        (&families::PRODUCER_ID_COUNT, totals.producers),
        (
            &families::UNDER_REPLICATED_PARTITIONS,
            totals.under_replicated,
        ),
        (
            &families::UNDER_MIN_ISR_PARTITION_COUNT,
            totals.under_min_isr,
        ),
        (&families::OFFLINE_REPLICA_COUNT, offline),
        (&families::OFFLINE_PARTITIONS_COUNT, totals.without_leader),
        (&families::GLOBAL_TOPIC_COUNT, totals.topics),
        (&families::GLOBAL_PARTITION_COUNT, totals.partitions),
    ] {
        text.single(family, value);
    }
}
