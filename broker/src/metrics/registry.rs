//! The metrics of the broker as a whole, in a `prometheus` registry.
//!
//! Made once by `Metrics::new`; the fields are handles that count without a lock, the vectors among them take a read
//! lock to find a label.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::families::{self, Family, Kind};
use super::text::Text;

/// Why building a metric cannot fail.
const VALID: &str = "names, labels and buckets are constants that a test builds";

/// From a tenth of a millisecond (a produce without sync) to the longest usual fetch wait and more.
const REQUEST_SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
const FSYNC_SECONDS: [f64; 13] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5,
];
const GROUP_SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0];
const GROUP_BYTES: [f64; 9] = [
    1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0,
];

/// Handles of everything that is registered.
pub(super) struct Registered {
    registry: Registry,
    pub(super) refused: IntCounterVec,
    pub(super) panics: IntCounter,
    pub(super) decompressions: IntGauge,
    pub(super) decompressions_most: IntGauge,
    pub(super) accepted: IntCounter,
    pub(super) closed: IntCounter,
    pub(super) connections: IntGaugeVec,
    pub(super) group_requests: Histogram,
    pub(super) group_batches: Histogram,
    pub(super) group_bytes: Histogram,
    pub(super) fsyncs: IntCounter,
    pub(super) fsync_seconds: Histogram,
    pub(super) offline_log_directories: IntGauge,
    pub(super) unclean_elections: IntCounter,
    pub(super) broker_state: IntGauge,
    pub(super) broker_info: IntGaugeVec,
}

impl Registered {
    /// All at zero, and the request histogram for the APIs (label `api`).
    pub(super) fn new() -> (Self, HistogramVec) {
        use families as f;
        let registry = Registry::new();
        let build_info = gauges(&registry, &f::BUILD_INFO, &["version"]);
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        // One node: the cluster's only broker and its controller.
        gauge(&registry, &f::BROKERS).set(1);
        gauge(&registry, &f::ACTIVE_CONTROLLER_COUNT).set(1);
        let opts = histogram_opts(&f::REQUEST_SECONDS, &REQUEST_SECONDS);
        let request_seconds = HistogramVec::new(opts, &["api"]).expect(VALID);
        let request_seconds = register(&registry, request_seconds);
        let registered = Self {
            refused: counters(&registry, &f::REFUSED, &["cause"]),
            panics: counter(&registry, &f::PANICS),
            decompressions: gauge(&registry, &f::DECOMPRESSIONS_RUNNING),
            decompressions_most: gauge(&registry, &f::DECOMPRESSIONS_MOST),
            accepted: counter(&registry, &f::CONNECTIONS_ACCEPTED),
            closed: counter(&registry, &f::CONNECTIONS_CLOSED),
            connections: gauges(
                &registry,
                &f::CONNECTION_COUNT,
                &["listener", "networkProcessor"],
            ),
            group_requests: histogram(&registry, &f::GROUP_COMMIT_REQUESTS, &GROUP_SIZES),
            group_batches: histogram(&registry, &f::GROUP_COMMIT_BATCHES, &GROUP_SIZES),
            group_bytes: histogram(&registry, &f::GROUP_COMMIT_BYTES, &GROUP_BYTES),
            fsyncs: counter(&registry, &f::FSYNCS),
            fsync_seconds: histogram(&registry, &f::FSYNC_SECONDS, &FSYNC_SECONDS),
            offline_log_directories: gauge(&registry, &f::OFFLINE_LOG_DIRECTORY_COUNT),
            unclean_elections: counter(&registry, &f::UNCLEAN_LEADER_ELECTIONS),
            broker_state: gauge(&registry, &f::BROKER_STATE),
            broker_info: gauges(&registry, &f::BROKER_INFO, &["id", "address"]),
            registry,
        };
        (registered, request_seconds)
    }

    /// Writes everything registered that has a value.
    pub(super) fn write(&self, text: &mut Text) {
        let families = self.registry.gather();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, text.raw()) {
            // Only a family without samples is refused, and `gather` leaves those out.
            tracing::error!(%error, "metrics could not be written");
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect(VALID);
    metric
}

fn opts(family: &Family, kind: Kind) -> Opts {
    debug_assert_eq!(family.kind, kind, "{}", family.name);
    Opts::new(family.name, family.help)
}

fn histogram_opts(family: &Family, buckets: &[f64]) -> HistogramOpts {
    HistogramOpts::from(opts(family, Kind::Histogram)).buckets(buckets.to_vec())
}

fn counter(registry: &Registry, family: &Family) -> IntCounter {
    let counter = IntCounter::with_opts(opts(family, Kind::Counter)).expect(VALID);
    register(registry, counter)
}

fn counters(registry: &Registry, family: &Family, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(opts(family, Kind::Counter), labels).expect(VALID);
    register(registry, counters)
}

fn gauge(registry: &Registry, family: &Family) -> IntGauge {
    register(
        registry,
        IntGauge::with_opts(opts(family, Kind::Gauge)).expect(VALID),
    )
}

fn gauges(registry: &Registry, family: &Family, labels: &[&str]) -> IntGaugeVec {
    let gauges = IntGaugeVec::new(opts(family, Kind::Gauge), labels).expect(VALID);
    register(registry, gauges)
}

fn histogram(registry: &Registry, family: &Family, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::with_opts(histogram_opts(family, buckets)).expect(VALID);
    register(registry, histogram)
}
