//! Gauges of groups: how many there are, and what each has committed and not read yet.
//!
//! At a scrape the groups tell their facts once (`GroupSource`); sums and label sets are made from them, then the
//! families are written one after the other. Group ids and their number are the clients' choice: samples beyond
//! `MOST_BYTES` of text are left out and counted, sums over all groups stay right.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use ottla_coordinator::group::{GroupState, GroupType};

use super::Detail;
use super::families::{self, Family};
use super::text::{Text, labels, push_labels};

/// Text that the samples of single groups may take on one page.
const MOST_BYTES: usize = 32 << 20;
/// Room for a name, a value and what stands between.
const SAMPLE_BYTES: usize = 64;

/// What a scrape asks of one group.
#[derive(Debug, Clone, Copy)]
pub struct GroupFacts<'a> {
    /// Its id, whatever a client chose.
    pub group: &'a str,
    /// Its type.
    pub group_type: GroupType,
    /// Its state.
    pub state: GroupState,
    /// How many members it has.
    pub members: usize,
    /// For how many partitions it has committed offsets.
    pub offset_count: usize,
    /// Its offsets by topic and partition; may be left empty below `Detail::Topic`.
    pub committed: &'a [CommittedFacts],
}

/// What a scrape asks of one committed offset.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedFacts {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Offsets up to the high watermark; `None` if the partition is not here.
    pub lag: Option<i64>,
    /// Age of the first batch that is not read whole, 0 without lag; `None` if it is not known.
    pub lag_seconds: Option<f64>,
}

/// Who knows the groups.
pub trait GroupSource: Send + Sync {
    /// Tells of every group, in any order but each once; called once per scrape, outside the async workers.
    fn for_each(&self, detail: Detail, tell: &mut dyn FnMut(GroupFacts<'_>));
}

const STATES: [(GroupState, &Family); 5] = [
    (
        GroupState::PreparingRebalance,
        &families::NUM_GROUPS_PREPARING,
    ),
    (
        GroupState::CompletingRebalance,
        &families::NUM_GROUPS_COMPLETING,
    ),
    (GroupState::Empty, &families::NUM_GROUPS_EMPTY),
    (GroupState::Stable, &families::NUM_GROUPS_STABLE),
    (GroupState::Dead, &families::NUM_GROUPS_DEAD),
];

/// The groups as they were at the scrape.
#[derive(Debug)]
pub(super) struct Snapshot {
    groups: usize,
    offsets: usize,
    by_state: [usize; STATES.len()],
    /// All label sets, one behind the other.
    labels: String,
    members: Vec<(Range<usize>, usize)>,
    sums: Vec<Sum>,
    rows: Vec<Row>,
    bytes_left: usize,
    left_out: usize,
}

/// One topic of a group.
#[derive(Debug)]
struct Sum {
    labels: Range<usize>,
    offset: i64,
    lag: Option<i64>,
}

/// One partition of a group.
#[derive(Debug)]
struct Row {
    labels: Range<usize>,
    offset: i64,
    lag: Option<i64>,
    lag_seconds: Option<f64>,
}

impl Snapshot {
    /// No groups.
    pub(super) fn empty() -> Self {
        Self::with_room(MOST_BYTES)
    }

    fn with_room(bytes: usize) -> Self {
        Self {
            groups: 0,
            offsets: 0,
            by_state: [0; STATES.len()],
            labels: String::new(),
            members: Vec::new(),
            sums: Vec::new(),
            rows: Vec::new(),
            bytes_left: bytes,
            left_out: 0,
        }
    }

    /// Asks the source.
    pub(super) fn take(source: &dyn GroupSource, detail: Detail) -> Self {
        let mut snapshot = Self::empty();
        source.for_each(detail, &mut |facts| snapshot.add(&facts, detail));
        snapshot
    }

    fn add(&mut self, facts: &GroupFacts<'_>, detail: Detail) {
        self.groups += 1;
        self.offsets += facts.offset_count;
        for (at, (state, _)) in STATES.iter().enumerate() {
            self.by_state[at] += usize::from(*state == facts.state);
        }
        if detail < Detail::Topic {
            return;
        }
        let group = ("consumergroup", facts.group);
        if let Some(labels) = self.admit(1, &[group]) {
            self.members.push((labels, facts.members));
        }
        let same_topic = |a: &CommittedFacts, b: &CommittedFacts| a.topic == b.topic;
        for of_topic in facts.committed.chunk_by(same_topic) {
            let topic = ("topic", &*of_topic[0].topic);
            if let Some(labels) = self.admit(2, &[group, topic]) {
                let offsets = of_topic.iter().map(|facts| facts.offset);
                let lags = of_topic.iter().filter_map(|facts| facts.lag);
                self.sums.push(Sum {
                    labels,
                    offset: offsets.fold(0, i64::saturating_add),
                    lag: lags.reduce(i64::saturating_add),
                });
            }
            if detail < Detail::Partition {
                continue;
            }
            let mut index = String::new();
            for facts in of_topic {
                index.clear();
                let _ = write!(index, "{}", facts.partition);
                let partition = ("partition", &*index);
                if let Some(labels) = self.admit(3, &[group, topic, partition]) {
                    self.rows.push(Row {
                        labels,
                        offset: facts.offset,
                        lag: facts.lag,
                        lag_seconds: facts.lag_seconds,
                    });
                }
            }
        }
    }

    /// The label set of so many samples, if there is room for them.
    fn admit(&mut self, samples: usize, pairs: &[(&str, &str)]) -> Option<Range<usize>> {
        let start = self.labels.len();
        push_labels(&mut self.labels, pairs);
        let bytes = samples * (self.labels.len() - start + SAMPLE_BYTES);
        if bytes > self.bytes_left {
            self.labels.truncate(start);
            self.left_out += samples;
            return None;
        }
        self.bytes_left -= bytes;
        Some(start..self.labels.len())
    }

    /// Samples that had no room.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Writes the sums over all groups.
    pub(super) fn write_counts(&self, text: &mut Text) {
        text.single(&families::NUM_GROUPS, self.groups);
        text.single(&families::NUM_OFFSETS, self.offsets);
        for ((_, family), count) in STATES.iter().zip(self.by_state) {
            text.single(family, count);
        }
        text.head(&families::GROUP_COUNT);
        let classic = labels(&[("protocol", "classic")]);
        text.sample(&families::GROUP_COUNT, &classic, self.groups);
        text.single(&families::OFFSET_COUNT, self.offsets);
        text.head(&families::CLASSIC_GROUP_COUNT);
        for ((state, _), count) in STATES.iter().zip(self.by_state) {
            let state = labels(&[("state", state.name())]);
            text.sample(&families::CLASSIC_GROUP_COUNT, &state, count);
        }
    }

    /// Writes the samples of single groups.
    pub(super) fn write_groups(&self, text: &mut Text) {
        text.reserve(MOST_BYTES.min(self.most_bytes()));
        self.write(text, &families::GROUP_MEMBERS, &self.members, |group| {
            Some((&group.0, group.1))
        });
        self.write(text, &families::GROUP_CURRENT_OFFSET_SUM, &self.sums, |s| {
            Some((&s.labels, s.offset))
        });
        self.write(text, &families::GROUP_LAG_SUM, &self.sums, |s| {
            Some((&s.labels, s.lag?))
        });
        self.write(text, &families::GROUP_CURRENT_OFFSET, &self.rows, |row| {
            Some((&row.labels, row.offset))
        });
        self.write(text, &families::GROUP_LAG, &self.rows, |row| {
            Some((&row.labels, row.lag?))
        });
        self.write(text, &families::GROUP_LAG_SECONDS, &self.rows, |row| {
            Some((&row.labels, row.lag_seconds?))
        });
    }

    fn write<R, V: std::fmt::Display>(
        &self,
        text: &mut Text,
        family: &Family,
        rows: &[R],
        value: impl Fn(&R) -> Option<(&Range<usize>, V)>,
    ) {
        let mut samples = rows.iter().filter_map(value).peekable();
        if samples.peek().is_some() {
            text.head(family);
        }
        for (labels, value) in samples {
            text.sample(family, &self.labels[labels.clone()], value);
        }
    }

    /// Room for what `write_groups` writes, heads included.
    fn most_bytes(&self) -> usize {
        let taken = MOST_BYTES - self.bytes_left.min(MOST_BYTES);
        taken + 2_048
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(topic: &str, partition: i32, offset: i64, lag: Option<i64>) -> CommittedFacts {
        CommittedFacts {
            topic: topic.into(),
            partition,
            offset,
            lag,
            lag_seconds: lag.map(|lag| lag as f64 / 4.0),
        }
    }

    fn stable<'a>(group: &'a str, committed: &'a [CommittedFacts]) -> GroupFacts<'a> {
        GroupFacts {
            group,
            group_type: GroupType::Classic,
            state: GroupState::Stable,
            members: 2,
            offset_count: committed.len(),
            committed,
        }
    }

    fn page(snapshot: &Snapshot) -> String {
        let mut text = Text::default();
        snapshot.write_groups(&mut text);
        text.into_string()
    }

    fn samples(page: &str) -> Vec<&str> {
        page.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn a_group_shows_its_members_its_offsets_and_its_lag() {
        let committed = [
            committed("bills", 1, 40, Some(3)),
            committed("orders", 0, 5, Some(0)),
            committed("orders", 2, 7, None),
        ];
        let mut snapshot = Snapshot::empty();
        snapshot.add(&stable("audit", &committed), Detail::Partition);
        let page = page(&snapshot);
        assert_eq!(
            samples(&page),
            [
                "kafka_consumergroup_members{consumergroup=\"audit\"} 2",
                "kafka_consumergroup_current_offset_sum{consumergroup=\"audit\",topic=\"bills\"} 40",
                "kafka_consumergroup_current_offset_sum{consumergroup=\"audit\",topic=\"orders\"} 12",
                "kafka_consumergroup_lag_sum{consumergroup=\"audit\",topic=\"bills\"} 3",
                "kafka_consumergroup_lag_sum{consumergroup=\"audit\",topic=\"orders\"} 0",
                "kafka_consumergroup_current_offset{consumergroup=\"audit\",topic=\"bills\",partition=\"1\"} 40",
                "kafka_consumergroup_current_offset{consumergroup=\"audit\",topic=\"orders\",partition=\"0\"} 5",
                "kafka_consumergroup_current_offset{consumergroup=\"audit\",topic=\"orders\",partition=\"2\"} 7",
                "kafka_consumergroup_lag{consumergroup=\"audit\",topic=\"bills\",partition=\"1\"} 3",
                "kafka_consumergroup_lag{consumergroup=\"audit\",topic=\"orders\",partition=\"0\"} 0",
                "kafka_consumergroup_lag_seconds{consumergroup=\"audit\",topic=\"bills\",partition=\"1\"} 0.75",
                "kafka_consumergroup_lag_seconds{consumergroup=\"audit\",topic=\"orders\",partition=\"0\"} 0",
            ]
        );
    }

    #[test]
    fn detail_takes_samples_away_and_leaves_the_counts() {
        let committed = [committed("orders", 0, 5, Some(1))];
        for (detail, expected) in [
            (Detail::Cluster, 0),
            (Detail::Topic, 3),
            (Detail::Partition, 6),
        ] {
            let mut snapshot = Snapshot::empty();
            snapshot.add(&stable("audit", &committed), detail);
            assert_eq!(samples(&page(&snapshot)).len(), expected, "{detail:?}");
            let mut text = Text::default();
            snapshot.write_counts(&mut text);
            let counts = text.into_string();
            for line in [
                "kafka_coordinator_group_groupmetadatamanager_numgroups 1",
                "kafka_coordinator_group_groupmetadatamanager_numoffsets 1",
                "kafka_coordinator_group_groupmetadatamanager_numgroupsstable 1",
                "kafka_coordinator_group_groupmetadatamanager_numgroupsempty 0",
                "kafka_server_group_coordinator_metrics_group_count{protocol=\"classic\"} 1",
                "kafka_server_group_coordinator_metrics_classic_group_count{state=\"Stable\"} 1",
                "kafka_server_group_coordinator_metrics_classic_group_count{state=\"Dead\"} 0",
            ] {
                assert!(counts.lines().any(|shown| shown == line), "{line}");
            }
        }
    }

    #[test]
    fn samples_beyond_the_room_are_left_out_and_counted() {
        let long = "g".repeat(30_000);
        let committed: Vec<_> = (0..100)
            .map(|partition| committed("orders", partition, 1, Some(1)))
            .collect();
        let room = 1 << 20;
        let mut snapshot = Snapshot::with_room(room);
        snapshot.add(&stable(&long, &committed), Detail::Partition);
        snapshot.add(&stable("small", &committed[..1]), Detail::Partition);
        let page = page(&snapshot);
        assert!(page.len() < room + 2_048, "{} bytes", page.len());
        let shown = samples(&page);
        assert_eq!(shown.len() + snapshot.left_out(), 3 + 300 + 6);
        assert!(snapshot.left_out() > 200);
        assert!(shown.iter().any(|line| line.contains("\"small\"")));
        assert_eq!((snapshot.groups, snapshot.offsets), (2, 101));
    }
}
