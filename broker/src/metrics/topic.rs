//! Counters per topic, and for all topics together.
//!
//! The produce and fetch handlers ask `Metrics::topic` for a topic's counters and add to them, once per partition and
//! request, never per record. A topic's counters vanish when it is deleted; the sums over all topics keep what it
//! added, as Kafka's `BrokerTopicStats` does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dashmap::DashMap;

use super::families::{self, Family};

/// The families, in the order of `Counter`.
pub(super) const FAMILIES: [&Family; 7] = [
    &families::MESSAGES_IN,
    &families::BYTES_IN,
    &families::BYTES_OUT,
    &families::PRODUCE_REQUESTS,
    &families::FETCH_REQUESTS,
    &families::FAILED_PRODUCE_REQUESTS,
    &families::FAILED_FETCH_REQUESTS,
];

/// Which of a topic's counters.
#[derive(Clone, Copy)]
enum Counter {
    MessagesIn,
    BytesIn,
    BytesOut,
    ProduceRequests,
    FetchRequests,
    FailedProduceRequests,
    FailedFetchRequests,
}

/// One value per family.
#[derive(Debug, Default)]
pub(super) struct Counts([AtomicU64; FAMILIES.len()]);

impl Counts {
    /// The values, in the order of `FAMILIES`.
    pub(super) fn load(&self) -> [u64; FAMILIES.len()] {
        std::array::from_fn(|at| self.0[at].load(Relaxed))
    }
}

/// The counters of one topic. What is added here is added to the sums over all topics too.
#[derive(Debug)]
pub struct TopicMetrics {
    own: Counts,
    all: Arc<Counts>,
}

impl TopicMetrics {
    /// A Produce request asks for one partition of the topic.
    pub fn produce_request(&self) {
        self.add(Counter::ProduceRequests, 1);
    }

    /// A batch was appended: so many records, so many bytes.
    pub fn appended(&self, records: u64, bytes: u64) {
        self.add(Counter::MessagesIn, records);
        self.add(Counter::BytesIn, bytes);
    }

    /// An append failed for a reason of the broker's. Errors a client is expected to meet (unknown topic, record too
    /// large, corrupt record) do not count, as in Kafka's `ReplicaManager.appendRecordsToLeader`.
    pub fn produce_failed(&self) {
        self.add(Counter::FailedProduceRequests, 1);
    }

    /// A Fetch request asks for one partition of the topic.
    pub fn fetch_request(&self) {
        self.add(Counter::FetchRequests, 1);
    }

    /// Batches of so many bytes go out to a consumer.
    pub fn fetched(&self, bytes: u64) {
        self.add(Counter::BytesOut, bytes);
    }

    /// A read failed for a reason of the broker's; not counted for an offset out of range or a fenced epoch.
    pub fn fetch_failed(&self) {
        self.add(Counter::FailedFetchRequests, 1);
    }

    fn add(&self, counter: Counter, n: u64) {
        self.own.0[counter as usize].fetch_add(n, Relaxed);
        self.all.0[counter as usize].fetch_add(n, Relaxed);
    }
}

/// The counters of all topics that have any.
#[derive(Debug, Default)]
pub(super) struct Topics {
    by_name: DashMap<Arc<str>, Arc<TopicMetrics>>,
    all: Arc<Counts>,
}

impl Topics {
    /// The topic's counters, made at the first call.
    pub(super) fn topic(&self, name: &str) -> Arc<TopicMetrics> {
        if let Some(topic) = self.by_name.get(name) {
            return topic.clone();
        }
        let new = || {
            Arc::new(TopicMetrics {
                own: Counts::default(),
                all: self.all.clone(),
            })
        };
        self.by_name
            .entry(Arc::from(name))
            .or_insert_with(new)
            .clone()
    }

    /// Forgets a topic; its share of the sums stays.
    pub(super) fn remove(&self, name: &str) {
        self.by_name.remove(name);
    }

    /// The sums over all topics that are or were.
    pub(super) fn all(&self) -> [u64; FAMILIES.len()] {
        self.all.load()
    }

    /// Every topic's values, by name.
    pub(super) fn sorted(&self) -> Vec<(Arc<str>, [u64; FAMILIES.len()])> {
        let mut topics: Vec<_> = self
            .by_name
            .iter()
            .map(|entry| (entry.key().clone(), entry.value().own.load()))
            .collect();
        topics.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        topics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_keeps_one_set_of_counters_while_it_lives() {
        let topics = Topics::default();
        let first = topics.topic("orders");
        assert!(Arc::ptr_eq(&first, &topics.topic("orders")));
        topics.remove("orders");
        assert!(!Arc::ptr_eq(&first, &topics.topic("orders")));
    }

    #[test]
    fn each_event_counts_for_the_topic_and_for_all_topics() {
        let topics = Topics::default();
        let (orders, bills) = (topics.topic("orders"), topics.topic("bills"));
        orders.produce_request();
        orders.appended(10, 500);
        orders.produce_failed();
        bills.fetch_request();
        bills.fetched(70);
        bills.fetch_failed();
        bills.appended(1, 30);
        assert_eq!(
            topics.sorted(),
            [
                (Arc::from("bills"), [1, 30, 70, 0, 1, 0, 1]),
                (Arc::from("orders"), [10, 500, 0, 1, 0, 1, 0]),
            ]
        );
        assert_eq!(topics.all(), [11, 530, 70, 1, 1, 1, 1]);
    }

    #[test]
    fn the_sums_keep_what_a_deleted_topic_added() {
        let topics = Topics::default();
        let orders = topics.topic("orders");
        orders.appended(10, 500);
        topics.remove("orders");
        topics.remove("never existed");
        orders.appended(1, 50);
        assert_eq!(topics.sorted(), []);
        assert_eq!(topics.all()[..2], [11, 550]);
    }

    #[test]
    fn threads_that_meet_at_a_new_topic_share_its_counters() {
        let topics = Topics::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1_000).for_each(|_| topics.topic("orders").appended(1, 2)));
            }
        });
        assert_eq!(topics.sorted()[0].1[..2], [8_000, 16_000]);
        assert_eq!(topics.all()[..2], [8_000, 16_000]);
    }
}
