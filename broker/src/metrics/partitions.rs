//! Gauges per partition, and the counts of partitions.
//!
//! At a scrape the partitions tell their facts once (`PartitionSource`), then the families are written one after the
//! other from what was told, straight into the page: nothing is kept between scrapes and nothing is written per
//! request. 10,000 partitions make 15 lines each, 13 MB; partitions beyond `MOST_BYTES` of text are left out and
//! counted, sums over all partitions stay right.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::families::{self, Family};
use super::text::{Text, push_labels};

/// What a scrape asks of one partition.
#[derive(Debug, Clone, Copy)]
pub struct PartitionFacts<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition's index.
    pub partition: i32,
    /// First offset kept.
    pub log_start: i64,
    /// Offset of the next record.
    pub log_end: i64,
    /// First offset a consumer may not read yet.
    pub high_watermark: i64,
    /// First offset of the oldest open transaction, else the high watermark.
    pub last_stable: i64,
    /// Bytes of batches kept.
    pub size_bytes: u64,
    /// Id of the leader, -1 if there is none.
    pub leader: i32,
    /// Id of this broker.
    pub node_id: i32,
    /// Ids of the replicas, the preferred leader first.
    pub replicas: &'a [i32],
    /// Ids of the in-sync replicas.
    pub isr: &'a [i32],
    /// How many of the replicas must be in sync: `min.insync.replicas`, at most as many as there are.
    pub min_isr: usize,
    /// Producers whose sequences are remembered.
    pub producers: usize,
}

/// Who knows the partitions.
pub trait PartitionSource: Send + Sync {
    /// Tells of every partition of the cluster, in any order; called once per scrape, outside the async workers.
    fn for_each(&self, tell: &mut dyn FnMut(PartitionFacts<'_>));
}

/// One value per partition: its family, who shows it, and what.
type Column = (&'static Family, fn(&Row) -> bool, fn(&Row) -> Option<i64>);

const COLUMNS: [Column; 16] = {
    use families as f;
    const LED: fn(&Row) -> bool = |row| row.led;
    const HOSTED: fn(&Row) -> bool = |row| row.hosted;
    const ANY: fn(&Row) -> bool = |_| true;
    [
        (&f::PARTITION_UNDER_MIN_ISR, LED, |r| {
            Some(i64::from(r.under_min_isr()))
        }),
        (&f::PARTITION_AT_MIN_ISR, LED, |r| {
            Some(i64::from(r.in_sync == r.min_isr))
        }),
        (&f::PARTITION_REPLICAS, LED, |r| Some(r.replicas)),
        (&f::PARTITION_IN_SYNC_REPLICAS, LED, |r| Some(r.in_sync)),
        (&f::PARTITION_LSO_LAG, LED, |r| {
            Some(r.high_watermark.saturating_sub(r.last_stable))
        }),
        (&f::LOG_SIZE, HOSTED, |r| {
            Some(i64::try_from(r.size_bytes).unwrap_or(i64::MAX))
        }),
        (&f::LOG_START_OFFSET, HOSTED, |r| Some(r.log_start)),
        (&f::LOG_END_OFFSET, HOSTED, |r| Some(r.log_end)),
        (&f::NUM_LOG_SEGMENTS, HOSTED, |_| Some(1)),
        (&f::TOPIC_CURRENT_OFFSET, ANY, |r| Some(r.high_watermark)),
        (&f::TOPIC_OLDEST_OFFSET, ANY, |r| Some(r.log_start)),
        (&f::TOPIC_LEADER, ANY, |r| Some(i64::from(r.leader))),
        (&f::TOPIC_LEADER_IS_PREFERRED, ANY, |r| {
            Some(i64::from(r.leader_is_preferred))
        }),
        (&f::TOPIC_REPLICAS, ANY, |r| Some(r.replicas)),
        (&f::TOPIC_IN_SYNC_REPLICA, ANY, |r| Some(r.in_sync)),
        (&f::TOPIC_UNDER_REPLICATED, ANY, |r| {
            Some(i64::from(r.under_replicated()))
        }),
    ]
};

/// Text that the samples of single partitions may take on one page.
const MOST_BYTES: usize = 64 << 20;

/// Room for a space, the longest integer and a line end.
const VALUE_BYTES: usize = 22;

/// The partitions as they were at the scrape.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    rows: Vec<Row>,
    /// The label sets of rows and topics, one behind the other: few large allocations instead of one per partition.
    labels: String,
    /// Label set and partition count of each topic, in the order of appearance.
    topics: Vec<(Range<usize>, u64)>,
}

/// A partition's facts without borrowed parts.
#[derive(Debug)]
struct Row {
    labels: Range<usize>,
    log_start: i64,
    log_end: i64,
    high_watermark: i64,
    last_stable: i64,
    size_bytes: u64,
    leader: i32,
    leader_is_preferred: bool,
    led: bool,
    hosted: bool,
    replicas: i64,
    in_sync: i64,
    min_isr: i64,
    producers: usize,
}

impl Row {
    fn under_replicated(&self) -> bool {
        self.in_sync < self.replicas
    }

    fn under_min_isr(&self) -> bool {
        self.in_sync < self.min_isr
    }
}

/// Sums over the partitions of a snapshot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) topics: usize,
    pub(super) partitions: usize,
    pub(super) hosted: usize,
    pub(super) led: usize,
    pub(super) under_replicated: usize,
    pub(super) under_min_isr: usize,
    pub(super) without_leader: usize,
    pub(super) producers: usize,
}

impl Snapshot {
    /// Asks the source.
    pub(super) fn take(source: &dyn PartitionSource) -> Self {
        let mut snapshot = Self::default();
        let mut by_topic: HashMap<Box<str>, usize> = HashMap::new();
        let mut index = String::new();
        source.for_each(&mut |facts| {
            let topic = match by_topic.get(facts.topic) {
                Some(&at) => at,
                None => {
                    let labels = snapshot.push_labels(&[("topic", facts.topic)]);
                    snapshot.topics.push((labels, 0));
                    by_topic.insert(facts.topic.into(), snapshot.topics.len() - 1);
                    snapshot.topics.len() - 1
                }
            };
            snapshot.topics[topic].1 += 1;
            index.clear();
            let _ = write!(index, "{}", facts.partition);
            let labels = snapshot.push_labels(&[("topic", facts.topic), ("partition", &index)]);
            snapshot.rows.push(Row::new(labels, &facts));
        });
        snapshot
    }

    fn push_labels(&mut self, pairs: &[(&str, &str)]) -> Range<usize> {
        let start = self.labels.len();
        push_labels(&mut self.labels, pairs);
        start..self.labels.len()
    }

    /// The sums.
    pub(super) fn totals(&self) -> Totals {
        let count = |wanted: fn(&Row) -> bool| self.rows.iter().filter(|row| wanted(row)).count();
        Totals {
            topics: self.topics.len(),
            partitions: self.rows.len(),
            hosted: count(|row| row.hosted),
            led: count(|row| row.led),
            under_replicated: count(|row| row.led && row.under_replicated()),
            under_min_isr: count(|row| row.led && row.under_min_isr()),
            without_leader: count(|row| row.leader < 0),
            producers: self.rows.iter().map(|row| row.producers).sum(),
        }
    }

    /// Writes the number of partitions of each topic.
    pub(super) fn write_topics(&self, text: &mut Text) {
        if self.topics.is_empty() {
            return;
        }
        text.head(&families::TOPIC_PARTITIONS);
        for (labels, partitions) in &self.topics {
            text.sample(
                &families::TOPIC_PARTITIONS,
                &self.labels[labels.clone()],
                partitions,
            );
        }
    }

    /// Writes all values of all partitions, as far as there is room; answers how many samples had none.
    pub(super) fn write_partitions(&self, text: &mut Text) -> usize {
        self.write_partitions_within(MOST_BYTES, text)
    }

    fn write_partitions_within(&self, most_bytes: usize, text: &mut Text) -> usize {
        let admitted = self.admitted(most_bytes);
        let left_out = self.rows.len() - admitted;
        let shown_rows = &self.rows[..admitted];
        text.reserve(Self::most_bytes(shown_rows));
        for (family, shown, value) in COLUMNS {
            let rows = shown_rows.iter().filter(|row| shown(row));
            let mut samples = rows.filter_map(|row| Some((row, value(row)?))).peekable();
            if samples.peek().is_some() {
                text.head(family);
            }
            for (row, value) in samples {
                text.sample(family, &self.labels[row.labels.clone()], value);
            }
        }
        left_out * COLUMNS.len()
    }

    /// How many rows, from the first on, have room.
    fn admitted(&self, most_bytes: usize) -> usize {
        let names: usize = COLUMNS.iter().map(|(family, ..)| family.name.len()).sum();
        let mut bytes = 0;
        let fits = |row: &&Row| {
            bytes += names + COLUMNS.len() * (row.labels.len() + VALUE_BYTES);
            bytes <= most_bytes
        };
        self.rows.iter().take_while(fits).count()
    }

    /// At most so many bytes are written of the rows: one reservation instead of repeated doubling.
    fn most_bytes(rows: &[Row]) -> usize {
        let labels: usize = rows.iter().map(|row| row.labels.len()).sum();
        let per_column = |(family, ..): &Column| {
            let head = 2 * family.name.len() + family.help.len() + 32;
            head + labels + rows.len() * (family.name.len() + VALUE_BYTES)
        };
        COLUMNS.iter().map(per_column).sum()
    }
}

impl Row {
    fn new(labels: Range<usize>, facts: &PartitionFacts<'_>) -> Self {
        Self {
            labels,
            log_start: facts.log_start,
            log_end: facts.log_end,
            high_watermark: facts.high_watermark,
            last_stable: facts.last_stable,
            size_bytes: facts.size_bytes,
            leader: facts.leader,
            leader_is_preferred: facts.replicas.first() == Some(&facts.leader),
            led: facts.leader == facts.node_id,
            hosted: facts.replicas.contains(&facts.node_id),
            replicas: facts.replicas.len() as i64,
            in_sync: facts.isr.len() as i64,
            min_isr: i64::try_from(facts.min_isr).unwrap_or(i64::MAX),
            producers: facts.producers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition of broker 1, alone and healthy.
    fn healthy(topic: &str, partition: i32) -> PartitionFacts<'_> {
        PartitionFacts {
            topic,
            partition,
            log_start: 5,
            log_end: 100,
            high_watermark: 90,
            last_stable: 80,
            size_bytes: 4_096,
            leader: 1,
            node_id: 1,
            replicas: &[1],
            isr: &[1],
            min_isr: 1,
            producers: 2,
        }
    }

    struct Facts(Vec<PartitionFacts<'static>>);

    impl PartitionSource for Facts {
        fn for_each(&self, tell: &mut dyn FnMut(PartitionFacts<'_>)) {
            self.0.iter().for_each(|facts| tell(*facts));
        }
    }

    fn page(snapshot: &Snapshot) -> String {
        let mut text = Text::default();
        snapshot.write_topics(&mut text);
        snapshot.write_partitions(&mut text);
        text.into_string()
    }

    /// The sample lines of one family.
    fn samples<'a>(page: &'a str, family: &str) -> Vec<&'a str> {
        page.lines()
            .filter_map(|line| line.strip_prefix(family))
            .filter(|rest| rest.starts_with('{'))
            .collect()
    }

    #[test]
    fn a_healthy_partition_shows_all_its_values() {
        let snapshot = Snapshot::take(&Facts(vec![healthy("orders", 3)]));
        let page = page(&snapshot);
        let labels = "{topic=\"orders\",partition=\"3\"}";
        for (family, value) in [
            ("kafka_cluster_partition_underminisr", 0),
            ("kafka_cluster_partition_atminisr", 1),
            ("kafka_cluster_partition_replicascount", 1),
            ("kafka_cluster_partition_insyncreplicascount", 1),
            ("kafka_cluster_partition_laststableoffsetlag", 10),
            ("kafka_log_log_size", 4_096),
            ("kafka_log_log_logstartoffset", 5),
            ("kafka_log_log_logendoffset", 100),
            ("kafka_log_log_numlogsegments", 1),
            ("kafka_topic_partition_current_offset", 90),
            ("kafka_topic_partition_oldest_offset", 5),
            ("kafka_topic_partition_leader", 1),
            ("kafka_topic_partition_leader_is_preferred", 1),
            ("kafka_topic_partition_replicas", 1),
            ("kafka_topic_partition_in_sync_replica", 1),
            ("kafka_topic_partition_under_replicated_partition", 0),
        ] {
            assert_eq!(
                samples(&page, family),
                [format!("{labels} {value}")],
                "{family}"
            );
        }
        assert_eq!(
            samples(&page, "kafka_topic_partitions"),
            ["{topic=\"orders\"} 1"]
        );
    }

    #[test]
    fn topics_are_counted_even_if_their_partitions_come_apart() {
        let facts = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)];
        let snapshot = Snapshot::take(&Facts(facts.map(|(t, p)| healthy(t, p)).to_vec()));
        let page = page(&snapshot);
        assert_eq!(
            samples(&page, "kafka_topic_partitions"),
            ["{topic=\"a\"} 3", "{topic=\"b\"} 2"]
        );
        assert_eq!(snapshot.totals().topics, 2);
        assert_eq!(snapshot.totals().partitions, 5);
    }

    #[test]
    fn a_partition_led_elsewhere_shows_its_log_but_not_its_isr() {
        let follower = PartitionFacts {
            leader: 2,
            replicas: &[2, 1],
            isr: &[2, 1],
            ..healthy("orders", 0)
        };
        let page = page(&Snapshot::take(&Facts(vec![follower])));
        assert!(!page.contains("kafka_cluster_partition"));
        assert_eq!(samples(&page, "kafka_log_log_logendoffset").len(), 1);
    }

    #[test]
    fn a_partition_kept_elsewhere_shows_only_what_kafka_exporter_shows() {
        let elsewhere = PartitionFacts {
            leader: 3,
            replicas: &[2, 3],
            isr: &[3],
            ..healthy("orders", 0)
        };
        let page = page(&Snapshot::take(&Facts(vec![elsewhere])));
        assert!(!page.contains("kafka_cluster_partition") && !page.contains("kafka_log_log"));
        let one = |family| samples(&page, family)[0].rsplit(' ').next();
        assert_eq!(one("kafka_topic_partition_leader"), Some("3"));
        assert_eq!(one("kafka_topic_partition_leader_is_preferred"), Some("0"));
        assert_eq!(
            one("kafka_topic_partition_under_replicated_partition"),
            Some("1")
        );
    }

    #[test]
    fn totals_tell_what_needs_attention() {
        let lagging = PartitionFacts {
            replicas: &[1, 2, 3],
            isr: &[1],
            min_isr: 2,
            ..healthy("orders", 0)
        };
        let lost = PartitionFacts {
            leader: -1,
            ..lagging
        };
        let snapshot = Snapshot::take(&Facts(vec![lagging, lost, healthy("bills", 0)]));
        let expected = Totals {
            topics: 2,
            partitions: 3,
            hosted: 3,
            led: 2,
            under_replicated: 1,
            under_min_isr: 1,
            without_leader: 1,
            producers: 6,
        };
        assert_eq!(snapshot.totals(), expected);
    }

    #[test]
    fn without_partitions_nothing_is_written() {
        let snapshot = Snapshot::take(&Facts(vec![]));
        assert_eq!(page(&snapshot), "");
        assert_eq!(snapshot.totals(), Totals::default());
    }

    #[test]
    fn the_reservation_covers_the_widest_values() {
        let wide = PartitionFacts {
            partition: i32::MAX,
            log_start: i64::MIN,
            log_end: i64::MIN,
            high_watermark: i64::MIN,
            last_stable: 0,
            size_bytes: u64::MAX,
            min_isr: usize::MAX,
            ..healthy("or\"ders", 0)
        };
        let snapshot = Snapshot::take(&Facts(vec![wide; 50]));
        let mut text = Text::default();
        snapshot.write_partitions(&mut text);
        let page = text.into_string();
        let reserved = Snapshot::most_bytes(&snapshot.rows);
        let written = page.len();
        assert_eq!(page.capacity(), reserved, "one reservation and no growth");
        assert!(written <= reserved, "{written} of {reserved}");
        assert!(written > reserved / 2, "{written} of {reserved}");
    }

    #[test]
    fn partitions_beyond_the_room_are_left_out_and_counted() {
        let partitions = (0..100).map(|at| healthy("orders", at)).collect();
        let snapshot = Snapshot::take(&Facts(partitions));
        let mut text = Text::default();
        let room = 60_000;
        let left_out = snapshot.write_partitions_within(room, &mut text);
        let page = text.into_string();
        let shown = page.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(shown + left_out, 100 * COLUMNS.len());
        assert!(left_out > 0 && shown > 0, "{shown} and {left_out}");
        assert!(page.len() < room + 4_096, "{} bytes", page.len());
        assert_eq!(snapshot.totals().partitions, 100);
    }
}
