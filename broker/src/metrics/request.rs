//! Counts and times of requests, per API.
//!
//! A request is recorded in two steps: `answered` before its answer leaves, so that a client that has it finds it
//! counted, and `sent` when the answer is written. An API's block (about 30 KiB, most of it histograms) is made when its
//! first request is recorded; after that recording is a handful of relaxed atomic adds. Times come in as durations; no
//! clock is read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use ottla_protocol::codec::messages::ApiKey;
use ottla_protocol::error_code::ErrorCode;
use prometheus::{Histogram, HistogramVec};

use super::families::{self, Family};
use super::quantile::FadingHistogram;

/// API keys from 0 on that have a block of their own; Kafka 4.3 ends at 92.
const API_KEYS: usize = 128;
/// Versions from 0 on that are counted one by one.
const VERSIONS: usize = 32;

/// Where the time between a request's arrival and its answer went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Elapsed {
    /// From the arrival of the last byte to the start of the handler.
    pub queue: Duration,
    /// At work in the handler.
    pub local: Duration,
    /// Waiting for a commit or for data to fetch.
    pub remote: Duration,
}

/// Where the time went that it took to send an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendTimes {
    /// Waiting for earlier answers of the connection to be sent.
    pub response_queue: Duration,
    /// Writing the answer to the socket.
    pub response_send: Duration,
    /// From the request's arrival to the end of the answer.
    pub total: Duration,
}

/// The counters of one API.
pub struct ApiMetrics {
    name: String,
    versions: [AtomicU64; VERSIONS],
    other_versions: AtomicU64,
    /// By error code + 1.
    errors: Box<[AtomicU64]>,
    quantiles: [FadingHistogram; QUANTILES.len()],
    seconds: Histogram,
}

/// A family of quantiles, the family of its count, and how many of the recorded units make one of the shown.
pub(super) struct Quantiles {
    pub(super) values: &'static Family,
    pub(super) count: &'static Family,
    pub(super) scale: f64,
}

impl Quantiles {
    const fn new(values: &'static Family, count: &'static Family, scale: f64) -> Self {
        Self {
            values,
            count,
            scale,
        }
    }
}

/// How many of the quantiles are known when a request is answered; the others when the answer is sent.
const ANSWERED: usize = 4;

/// Recorded in microseconds and shown in milliseconds, except the bytes.
pub(super) const QUANTILES: [Quantiles; 7] = {
    use families as f;
    [
        Quantiles::new(&f::QUEUE_TIME, &f::QUEUE_TIME_COUNT, 1e3),
        Quantiles::new(&f::LOCAL_TIME, &f::LOCAL_TIME_COUNT, 1e3),
        Quantiles::new(&f::REMOTE_TIME, &f::REMOTE_TIME_COUNT, 1e3),
        Quantiles::new(&f::REQUEST_BYTES, &f::REQUEST_BYTES_COUNT, 1.0),
        Quantiles::new(&f::RESPONSE_QUEUE_TIME, &f::RESPONSE_QUEUE_TIME_COUNT, 1e3),
        Quantiles::new(&f::RESPONSE_SEND_TIME, &f::RESPONSE_SEND_TIME_COUNT, 1e3),
        Quantiles::new(&f::TOTAL_TIME, &f::TOTAL_TIME_COUNT, 1e3),
    ]
};

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl ApiMetrics {
    fn new(name: String, seconds: Histogram) -> Self {
        let highest = ErrorCode::ALL.iter().map(|e| e.code()).max().unwrap_or(0);
        let zeros = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect();
        Self {
            name,
            versions: std::array::from_fn(|_| AtomicU64::new(0)),
            other_versions: AtomicU64::new(0),
            errors: zeros(error_slot(highest) + 1),
            quantiles: std::array::from_fn(|_| FadingHistogram::new()),
            seconds,
        }
    }

    /// One request is answered, with `error_code` as its top-level error, 0 if all went well.
    pub fn answered(&self, version: i16, error_code: i16, request_bytes: usize, elapsed: &Elapsed) {
        usize::try_from(version)
            .ok()
            .and_then(|version| self.versions.get(version))
            .unwrap_or(&self.other_versions)
            .fetch_add(1, Relaxed);
        self.error(error_code, 1);
        let values = [
            micros(elapsed.queue),
            micros(elapsed.local),
            micros(elapsed.remote),
            request_bytes as u64,
        ];
        for (histogram, value) in self.quantiles[..ANSWERED].iter().zip(values) {
            histogram.record(value);
        }
    }

    /// The answer of a request is written, or the request asked for none.
    pub fn sent(&self, times: &SendTimes) {
        let values = [times.response_queue, times.response_send, times.total].map(micros);
        for (histogram, value) in self.quantiles[ANSWERED..].iter().zip(values) {
            histogram.record(value);
        }
        self.seconds.observe(times.total.as_secs_f64());
    }

    /// Whether any request was answered.
    pub(super) fn is_used(&self) -> bool {
        self.quantiles[0].count() > 0
    }

    /// `n` errors inside an answer, for instance of single partitions; Kafka counts each.
    pub fn error(&self, error_code: i16, n: u64) {
        // A code Kafka does not have can only be a mistake of ours: it counts as UNKNOWN_SERVER_ERROR.
        self.errors
            .get(error_slot(error_code))
            .unwrap_or(&self.errors[0])
            .fetch_add(n, Relaxed);
    }

    /// The API's name, as in Kafka's `request` tag.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Requests by version, for versions that were asked for.
    pub(super) fn requests(&self) -> impl Iterator<Item = (String, u64)> {
        let labelled = self.versions.iter().enumerate();
        labelled
            .map(|(version, count)| (version.to_string(), count))
            .chain([("other".to_owned(), &self.other_versions)])
            .map(|(version, count)| (version, count.load(Relaxed)))
            .filter(|&(_, count)| count > 0)
    }

    /// Errors by Kafka's name, for errors that occurred.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ErrorCode::ALL
            .iter()
            .map(|error| (error.name(), &self.errors[error_slot(error.code())]))
            .map(|(name, count)| (name, count.load(Relaxed)))
            .filter(|&(_, count)| count > 0)
    }

    /// The histogram behind the row of `QUANTILES` with that index.
    pub(super) fn quantiles(&self, row: usize) -> &FadingHistogram {
        &self.quantiles[row]
    }
}

/// Code -1 has slot 0; codes below that have none.
fn error_slot(error_code: i16) -> usize {
    usize::try_from(i32::from(error_code) + 1).unwrap_or(0)
}

/// All APIs, by key.
pub(super) struct Apis {
    by_key: Box<[OnceLock<Box<ApiMetrics>>]>,
    unknown: OnceLock<Box<ApiMetrics>>,
    seconds: HistogramVec,
}

impl Apis {
    /// No API yet; `seconds` has the one label `api`.
    pub(super) fn new(seconds: HistogramVec) -> Self {
        Self {
            by_key: (0..API_KEYS).map(|_| OnceLock::new()).collect(),
            unknown: OnceLock::new(),
            seconds,
        }
    }

    /// The counters of an API. Keys Kafka does not have share one block.
    pub(super) fn api(&self, key: i16) -> &ApiMetrics {
        let slot = match ApiKey::try_from(key) {
            Ok(_) => usize::try_from(key).ok().and_then(|at| self.by_key.get(at)),
            Err(()) => None,
        };
        slot.unwrap_or(&self.unknown).get_or_init(|| {
            // The codec names its keys as Kafka names its APIs.
            let name = ApiKey::try_from(key).map_or("Unknown".to_owned(), |key| format!("{key:?}"));
            let seconds = self.seconds.with_label_values(&[&name]);
            Box::new(ApiMetrics::new(name, seconds))
        })
    }

    /// The APIs that were recorded, by key.
    pub(super) fn used(&self) -> impl Iterator<Item = &ApiMetrics> {
        let slots = self.by_key.iter().chain([&self.unknown]);
        slots.filter_map(|slot| slot.get().map(Box::as_ref))
    }

    /// Lets the quantiles forget; see `FadingHistogram::fade`.
    pub(super) fn fade(&self) {
        for api in self.used() {
            api.quantiles.iter().for_each(FadingHistogram::fade);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    fn apis() -> Apis {
        Apis::new(HistogramVec::new(HistogramOpts::new("seconds", "help"), &["api"]).unwrap())
    }

    /// A request that took so long, half of it in the handler.
    fn record(api: &ApiMetrics, version: i16, request_bytes: usize, total_ms: u64) {
        let elapsed = Elapsed {
            local: Duration::from_millis(total_ms / 2),
            ..Elapsed::default()
        };
        api.answered(version, 0, request_bytes, &elapsed);
        api.sent(&SendTimes {
            total: Duration::from_millis(total_ms),
            ..SendTimes::default()
        });
    }

    #[test]
    fn an_api_is_made_when_first_asked_for_and_carries_kafkas_name() {
        let apis = apis();
        assert_eq!(apis.used().count(), 0);
        assert_eq!(apis.api(0).name(), "Produce");
        assert_eq!(apis.api(23).name(), "OffsetForLeaderEpoch");
        assert!(std::ptr::eq(apis.api(0), apis.api(0)));
        assert_eq!(apis.used().count(), 2);
    }

    #[test]
    fn keys_kafka_does_not_have_share_one_block() {
        let apis = apis();
        for key in [-1, i16::MIN, 4, 93, 127, 128, 9_999, i16::MAX] {
            assert_eq!(apis.api(key).name(), "Unknown", "key {key}");
        }
        assert_eq!(apis.used().count(), 1);
    }

    #[test]
    fn every_key_of_the_codec_has_a_block_of_its_own() {
        let apis = apis();
        let keys: Vec<ApiKey> = ApiKey::iter().collect();
        for key in &keys {
            assert_eq!(apis.api(*key as i16).name(), format!("{key:?}"));
        }
        assert_eq!(apis.used().count(), keys.len());
    }

    #[test]
    fn requests_count_by_version_and_odd_versions_together() {
        let apis = apis();
        let api = apis.api(18);
        for version in [3, 3, 0, 99, -1, i16::MAX, i16::MIN] {
            api.answered(version, 0, 10, &Elapsed::default());
        }
        let counts: Vec<_> = api.requests().collect();
        let expected = [("0", 1), ("3", 2), ("other", 4)].map(|(v, n)| (v.to_owned(), n));
        assert_eq!(counts, expected);
    }

    #[test]
    fn errors_count_by_name_and_impossible_codes_as_unknown_server_error() {
        let apis = apis();
        let api = apis.api(0);
        for code in [0, 0, 3, -1, -2, i16::MIN, i16::MAX] {
            api.answered(9, code, 10, &Elapsed::default());
        }
        api.error(87, 5);
        assert_eq!(
            api.errors().collect::<Vec<_>>(),
            [
                ("UNKNOWN_SERVER_ERROR", 4),
                ("NONE", 2),
                ("UNKNOWN_TOPIC_OR_PARTITION", 1),
                ("INVALID_RECORD", 5),
            ]
        );
    }

    #[test]
    fn every_error_code_has_its_slot() {
        let apis = apis();
        let api = apis.api(0);
        ErrorCode::ALL.iter().for_each(|e| api.error(e.code(), 1));
        assert_eq!(api.errors().count(), ErrorCode::ALL.len());
        assert!(api.errors().all(|(_, count)| count == 1));
    }

    #[test]
    fn times_go_to_their_own_quantiles_and_to_the_histogram() {
        let apis = apis();
        let api = apis.api(0);
        for ms in 1..=100 {
            record(api, 9, 2_000, ms);
        }
        let p99 = |row: usize| api.quantiles(row).quantiles([990])[0] / QUANTILES[row].scale;
        assert!((p99(6) - 99.0).abs() <= 99.0 / 32.0, "total {}", p99(6));
        assert!((p99(1) - 49.0).abs() <= 49.0 / 32.0, "local {}", p99(1));
        assert_eq!(p99(2), 0.0);
        assert!(
            (p99(3) - 2_000.0).abs() <= 2_000.0 / 32.0,
            "bytes {}",
            p99(3)
        );
        assert!((0..QUANTILES.len()).all(|row| api.quantiles(row).count() == 100));
        assert_eq!(api.seconds.get_sample_count(), 100);
        assert!((api.seconds.get_sample_sum() - 5.05).abs() < 1e-9);
    }

    #[test]
    fn a_time_beyond_all_measure_is_taken() {
        let apis = apis();
        let forever = Elapsed {
            queue: Duration::MAX,
            ..Elapsed::default()
        };
        apis.api(1).answered(4, 0, usize::MAX, &forever);
        apis.api(1).sent(&SendTimes {
            total: Duration::MAX,
            ..SendTimes::default()
        });
        assert!((0..QUANTILES.len()).all(|row| apis.api(1).quantiles(row).count() == 1));
    }

    #[test]
    fn quantiles_forget_and_counts_do_not() {
        let apis = apis();
        record(apis.api(0), 9, 10, 50);
        (0..11).for_each(|_| apis.fade());
        assert_eq!(apis.api(0).quantiles(6).quantiles([500]), [0.0]);
        assert_eq!(apis.api(0).quantiles(6).count(), 1);
        assert_eq!(apis.api(0).requests().map(|(_, n)| n).sum::<u64>(), 1);
    }
}
