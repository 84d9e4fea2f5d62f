//! What a scrape of `/metrics` sees of the broker: partitions, groups, store, threads and disk. Made at start by
//! `start.rs`, asked by `metrics` on a thread that may block; it changes nothing.
//!
//! Invariant: a scrape waits for the groups' tasks no longer than `GROUPS_DEADLINE`. A shard that does not answer by
//! then, because its records wait for a slow disk for instance, is shown as it was at the scrape before.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla_coordinator::group::{GroupSummary, SummaryOffset};
use ottla_protocol::batch::{BatchHeader, NO_TIMESTAMP, TimestampType};
use ottla_storage::keys::Handle;
use ottla_storage::log::{Log, Partition, ReadLimit};
use ottla_storage::partition::Offsets;
use tokio::runtime;

use crate::disk::{self, Disk, Level};
use crate::env::Env;
use crate::groups::Groups;
use crate::metadata_log::MetadataLog;
use crate::metrics::first_unread::{FirstUnread, Looked};
use crate::metrics::{
    BusyTime, CommittedFacts, Detail, DiskSpace, EngineSource, GroupFacts, GroupSource, HostSource,
    PartitionFacts, PartitionSource,
};
use crate::partitions::{LocalTopic, Partitions};
use crate::scrub;

/// How long a scrape waits for the groups' tasks; less than the metrics listener gives it when the broker stops.
const GROUPS_DEADLINE: Duration = Duration::from_millis(250);

/// What the scrape looks at.
pub struct Parts {
    /// Partitions by topic.
    pub partitions: Arc<Partitions>,
    /// The metadata log.
    pub metadata: MetadataLog,
    /// All partition logs.
    pub log: Log,
    /// The group coordinator.
    pub groups: Arc<Groups>,
    /// Time.
    pub env: Env,
    /// Id of this broker.
    pub node_id: i32,
    /// The data directory.
    pub log_dir: PathBuf,
    /// How full its disk is.
    pub disk: Arc<Disk>,
    /// The runtime that has the groups.
    pub runtime: runtime::Handle,
    /// Those of the network threads.
    pub network: Vec<runtime::Handle>,
    /// What the scrub found.
    pub scrub: Arc<scrub::Counts>,
}

/// How long the workers of the runtimes were busy so far, all together, and how many there are.
pub fn busy(runtimes: &[runtime::Handle]) -> (Duration, usize) {
    let of_each = runtimes.iter().map(|runtime| {
        let metrics = runtime.metrics();
        let threads = metrics.num_workers();
        let busy = (0..threads).map(|worker| metrics.worker_total_busy_duration(worker));
        (busy.sum::<Duration>(), threads)
    });
    of_each.fold((Duration::ZERO, 0), |all, one| {
        (all.0 + one.0, all.1 + one.1)
    })
}

/// The broker as scrapes see it.
pub struct Scrape {
    parts: Parts,
    groups: Mutex<GroupMemory>,
}

/// What is kept from one scrape to the next.
#[derive(Default)]
struct GroupMemory {
    /// By shard, as it answered last.
    shards: Vec<Vec<GroupSummary>>,
    first_unread: FirstUnread<(Handle, i64)>,
}

impl GroupMemory {
    /// Takes over what the shards answered; who did not answer is known as before.
    fn remember(&mut self, answers: Vec<Option<Vec<GroupSummary>>>) {
        self.shards.resize_with(answers.len(), Vec::new);
        for (known, answer) in self.shards.iter_mut().zip(answers) {
            if let Some(answer) = answer {
                *known = answer;
            }
        }
    }
}

/// A committed offset with its partition, if that is here.
struct Place {
    partition: Arc<Partition>,
    offsets: Offsets,
}

impl Place {
    /// Offsets that are readable and not read; `None` for an offset that is none.
    fn lag(&self, committed: i64) -> Option<i64> {
        (committed >= 0).then(|| self.offsets.high_watermark.saturating_sub(committed).max(0))
    }

    /// Where the group will go on to read, if there is anything.
    fn first_unread(&self, committed: i64) -> Option<i64> {
        let next = committed.max(self.offsets.log_start);
        (committed >= 0 && next < self.offsets.high_watermark).then_some(next)
    }
}

impl Scrape {
    /// A view of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            groups: Mutex::default(),
        }
    }

    fn topics(&self) -> Vec<Arc<LocalTopic>> {
        let mut topics = self.parts.partitions.all();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// Asks the shards, and remembers what they said for the case that one does not answer the next time.
    fn ask_groups(&self, memory: &mut GroupMemory, offsets: bool) {
        let asked = self.parts.groups.summaries(offsets, GROUPS_DEADLINE);
        memory.remember(self.parts.runtime.block_on(asked));
    }

    /// The time of the batch that holds `offset`, or of the first one after it.
    fn look_up(&self, partition: &Partition, offset: i64) -> Option<Looked> {
        let log = &self.parts.log;
        // One batch, whatever its size.
        let read = log.read(partition, offset, 1, true, ReadLimit::HighWatermark);
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // The partition may be on its way out, or the log start has passed the offset.
                tracing::debug!(%error, "the time of a first unread batch is not known");
                return None;
            }
        };
        let header = BatchHeader::parse(read.batches.first()?).ok()?;
        Some(Looked {
            timestamp: first_timestamp(&header),
            bytes: read.bytes,
        })
    }
}

/// The timestamp of a batch's first record; none if the producer gave none.
fn first_timestamp(header: &BatchHeader) -> Option<i64> {
    // The base timestamp of a compacted batch may be its delete horizon, and the broker's own time is in the maximum.
    let is_base = header.delete_horizon_ms().is_none()
        && header.timestamp_type() == TimestampType::CreateTime;
    let timestamp = if is_base {
        header.base_timestamp
    } else {
        header.max_timestamp
    };
    (timestamp != NO_TIMESTAMP).then_some(timestamp)
}

impl PartitionSource for Scrape {
    fn for_each(&self, tell: &mut dyn FnMut(PartitionFacts<'_>)) {
        let image = self.parts.metadata.image();
        for local in self.topics() {
            let Some(topic) = image.topic_by_id(&local.id) else {
                continue;
            };
            for (index, (state, log)) in topic.partitions.iter().zip(&local.partitions).enumerate()
            {
                let offsets = log.offsets();
                tell(PartitionFacts {
                    topic: &local.name,
                    partition: i32::try_from(index).unwrap_or(i32::MAX),
                    log_start: offsets.log_start,
                    log_end: offsets.log_end,
                    high_watermark: offsets.high_watermark,
                    last_stable: offsets.last_stable,
                    size_bytes: log.size_bytes(),
                    leader: state.leader,
                    node_id: self.parts.node_id,
                    replicas: &state.replicas,
                    isr: &state.isr,
                    min_isr: local.config.effective_min_isr(state.replicas.len()),
                    producers: log.producer_count(),
                });
            }
        }
    }
}

impl GroupSource for Scrape {
    fn for_each(&self, detail: Detail, tell: &mut dyn FnMut(GroupFacts<'_>)) {
        let mut memory = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &mut *memory;
        self.ask_groups(memory, detail >= Detail::Topic);
        let groups = || memory.shards.iter().flatten();
        let mut topics: HashMap<Arc<str>, Option<Arc<LocalTopic>>> = HashMap::new();
        let mut place_of = |committed: &SummaryOffset| {
            let topic = match topics.get(&committed.topic) {
                Some(known) => known.as_ref(),
                None => {
                    let found = self.parts.partitions.by_name(&committed.topic);
                    topics
                        .entry(committed.topic.clone())
                        .insert_entry(found)
                        .into_mut()
                        .as_ref()
                }
            };
            let partition = topic?.partition(committed.partition)?.clone();
            let offsets = partition.offsets();
            Some(Place { partition, offsets })
        };
        let committed = groups().flat_map(|group| &group.offsets);
        let places: Vec<Option<Place>> = committed.clone().map(&mut place_of).collect();
        let mut unread = HashMap::new();
        let mut wanted = Vec::new();
        if detail >= Detail::Partition {
            for (committed, place) in committed.zip(&places) {
                if let Some(place) = place
                    && let Some(next) = place.first_unread(committed.offset)
                {
                    let key = (place.partition.handle(), next);
                    unread.insert(key.0, &place.partition);
                    wanted.push(key);
                }
            }
        }
        memory.first_unread.refresh(&wanted, |(handle, offset)| {
            self.look_up(unread.get(handle)?, *offset)
        });
        let now = self.parts.env.now_ms();
        let age_seconds = |place: &Place, committed: i64| {
            if committed < 0 {
                return None;
            }
            let Some(next) = place.first_unread(committed) else {
                return Some(0.0);
            };
            let time = memory
                .first_unread
                .time(&(place.partition.handle(), next))?;
            Some(now.saturating_sub(time).max(0) as f64 / 1_000.0)
        };
        let mut places = places.iter();
        for group in groups() {
            let committed: Vec<CommittedFacts> = group
                .offsets
                .iter()
                .zip(places.by_ref())
                .map(|(committed, place)| CommittedFacts {
                    topic: committed.topic.clone(),
                    partition: committed.partition,
                    offset: committed.offset,
                    lag: place.as_ref().and_then(|place| place.lag(committed.offset)),
                    lag_seconds: place
                        .as_ref()
                        .and_then(|place| age_seconds(place, committed.offset)),
                })
                .collect();
            tell(GroupFacts {
                group: &group.group,
                group_type: group.group_type,
                state: group.state,
                members: group.members,
                offset_count: group.offset_count,
                committed: &committed,
            });
        }
    }
}

impl EngineSource for Scrape {
    fn properties(&self) -> Vec<(&'static str, u64)> {
        let mut properties = self.parts.log.properties();
        properties.extend(self.parts.scrub.properties());
        properties
    }
}

impl HostSource for Scrape {
    fn busy_time(&self) -> BusyTime {
        let (busy, threads) = busy(&self.parts.network);
        BusyTime {
            at: self.parts.env.monotonic(),
            busy,
            threads,
        }
    }

    fn disk_space(&self) -> Option<DiskSpace> {
        disk::space(&self.parts.log_dir).ok()
    }

    fn disk_level(&self) -> Level {
        self.parts.disk.level()
    }
}

#[cfg(test)]
mod tests {
    use ottla_coordinator::group::{GroupState, GroupType};
    use ottla_protocol::batch::{self, BatchBuilder};

    use super::*;

    fn built(base: i64, deltas: &[i64]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(base);
        for delta in deltas {
            builder = builder.record(base + delta, None, Some(b"x"), &[]);
        }
        builder.build().to_vec()
    }

    fn first(bytes: &[u8]) -> Option<i64> {
        first_timestamp(&BatchHeader::parse(bytes).unwrap())
    }

    fn empty_group(id: &str) -> GroupSummary {
        GroupSummary {
            group: id.into(),
            group_type: GroupType::Classic,
            protocol_type: String::new(),
            state: GroupState::Empty,
            members: 0,
            offset_count: 0,
            offsets: Vec::new(),
        }
    }

    #[test]
    fn a_shard_that_does_not_answer_is_shown_as_before() {
        let (a, b, c) = (empty_group("a"), empty_group("b"), empty_group("c"));
        let mut memory = GroupMemory::default();
        memory.remember(vec![None, Some(vec![a.clone()])]);
        assert_eq!(memory.shards, [vec![], vec![a.clone()]]);
        memory.remember(vec![Some(vec![b.clone()]), None]);
        assert_eq!(memory.shards, [vec![b.clone()], vec![a]]);
        memory.remember(vec![None, Some(vec![c.clone()])]);
        assert_eq!(memory.shards, [vec![b], vec![c]]);
        // The topic of groups is gone, and all groups with it.
        memory.remember(Vec::new());
        assert!(memory.shards.is_empty());
    }

    #[test]
    fn a_batch_is_as_old_as_its_first_record() {
        assert_eq!(first(&built(1_000, &[0, 50, 20])), Some(1_000));
    }

    #[test]
    fn the_brokers_own_time_counts_where_it_was_stamped() {
        let mut bytes = built(1_000, &[0, 50]);
        batch::stamp_log_append_time(&mut bytes, 9_000);
        assert_eq!(first(&bytes), Some(9_000));
    }

    #[test]
    fn a_batch_without_a_time_has_none() {
        assert_eq!(first(&built(NO_TIMESTAMP, &[0])), None);
    }
}
