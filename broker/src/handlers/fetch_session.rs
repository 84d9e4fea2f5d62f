//! Incremental fetch sessions (KIP-227): what a client asked for last, so that it need not ask again. Used by
//! `fetch.rs` only; a bounded cache without I/O. Time comes in as an argument.
//!
//! ```text
//! id 0, epoch -1      a full fetch without a session
//! id 0, epoch 0       a full fetch that begins a session; 0 as the answered id means: no room, none was made
//! id n, epoch 0 or -1 the session ends; 0 begins another one
//! id n, epoch e       an incremental fetch: n unknown -> FETCH_SESSION_ID_NOT_FOUND,
//!                     e not the expected one -> INVALID_FETCH_SESSION_EPOCH,
//!                     names instead of ids or the reverse -> FETCH_SESSION_TOPIC_ID_ERROR,
//!                     no partition left -> the session ends, the answered id is 0
//! ```
//!
//! Invariant: all sessions together remember at most `PARTITIONS_PER_SLOT` partitions for each slot. Kafka bounds
//! only the sessions; a session too many, or one that grew too large, is answered as if there were no slot.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kafka_protocol::protocol::StrBytes;
use ottla_protocol::error_code::ErrorCode;
use uuid::Uuid;

/// A session that nobody used for this long may make room for another (Kafka's `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`).
const EVICTABLE_AFTER_MS: u128 = 120_000;

/// Partitions that all sessions together may remember, for each slot.
const PARTITIONS_PER_SLOT: usize = 100;

/// How a request names a topic: by id from version 13 on, by name before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// By name.
    Name(StrBytes),
    /// By id.
    Id(Uuid),
}

/// One partition to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its topic.
    pub topic: TopicKey,
    /// Its index.
    pub partition: i32,
    /// From which offset on.
    pub offset: i64,
    /// At most this many bytes.
    pub max_bytes: i32,
    /// The leader epoch the client knows; -1 for none.
    pub current_leader_epoch: i32,
    /// The epoch of the last record it has; -1 for none.
    pub last_fetched_epoch: i32,
    /// The high watermark it was told last; `None`: nothing yet.
    pub told_high_watermark: Option<i64>,
    /// The log start it was told last.
    pub told_log_start: i64,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    by_id: bool,
    partitions: Vec<Wanted>,
    used_ms: u128,
}

/// What a fetch has to do, once its session part is understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The session to answer with; 0 for none.
    pub session_id: i32,
    /// What to fetch, in the order to fetch it.
    pub partitions: Vec<Wanted>,
    /// Whether partitions without news are left out of the answer.
    pub incremental: bool,
}

/// The session part of a request.
#[derive(Debug)]
pub struct Asked {
    /// Session id.
    pub id: i32,
    /// Session epoch.
    pub epoch: i32,
    /// Whether topics are named by id.
    pub by_id: bool,
    /// Partitions named.
    pub partitions: Vec<Wanted>,
    /// Partitions to leave the session.
    pub forgotten: Vec<(TopicKey, i32)>,
}

/// All sessions, at most `slots`.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    sessions: Mutex<HashMap<i32, Session>>,
}

impl FetchSessions {
    /// An empty cache for `max.incremental.fetch.session.cache.slots` sessions.
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            sessions: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Understands the session part of a request. `fresh` gives ids for new sessions.
    ///
    /// # Errors
    /// As the table in the file's head says.
    pub fn plan(
        &self,
        asked: Asked,
        now_ms: u128,
        mut fresh: impl FnMut() -> u64,
    ) -> Result<Plan, ErrorCode> {
        let mut sessions = self.lock();
        let limit = self.slots * PARTITIONS_PER_SLOT;
        if matches!(asked.epoch, 0 | -1) {
            if asked.id != 0 {
                sessions.remove(&asked.id);
            }
            let session_id = if asked.epoch == 0 && !asked.partitions.is_empty() {
                self.begin(&mut sessions, &asked, now_ms, &mut fresh)
            } else {
                0
            };
            return Ok(Plan {
                session_id,
                partitions: asked.partitions,
                incremental: false,
            });
        }
        let session = sessions
            .get_mut(&asked.id)
            .ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != asked.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != asked.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.epoch = next_epoch(session.epoch);
        session.used_ms = now_ms;
        let grows = !asked.partitions.is_empty();
        session.merge(asked.partitions);
        session.forget(&asked.forgotten);
        let partitions = session.partitions.clone();
        if partitions.is_empty() {
            sessions.remove(&asked.id);
            return Ok(Plan {
                session_id: 0,
                partitions,
                incremental: false,
            });
        }
        if grows && partitions_of(&sessions) > limit {
            // Forgotten, so that the client begins anew with a full fetch.
            sessions.remove(&asked.id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        Ok(Plan {
            session_id: asked.id,
            partitions,
            incremental: true,
        })
    }

    fn begin(
        &self,
        sessions: &mut HashMap<i32, Session>,
        asked: &Asked,
        now_ms: u128,
        fresh: &mut impl FnMut() -> u64,
    ) -> i32 {
        let limit = self.slots * PARTITIONS_PER_SLOT;
        let most = limit.saturating_sub(asked.partitions.len());
        if asked.partitions.len() > limit {
            return 0;
        }
        while sessions.len() >= self.slots || partitions_of(sessions) > most {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| session.used_ms)
                .map(|(id, session)| (*id, session.used_ms));
            match oldest {
                Some((id, used_ms)) if now_ms.saturating_sub(used_ms) >= EVICTABLE_AFTER_MS => {
                    sessions.remove(&id);
                }
                _ => return 0,
            }
        }
        let id = loop {
            let id = (fresh() & 0x7fff_ffff) as i32;
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        sessions.insert(
            id,
            Session {
                epoch: 1,
                by_id: asked.by_id,
                partitions: asked.partitions.clone(),
                used_ms: now_ms,
            },
        );
        id
    }

    /// Notes what a client was told, and moves the partitions that gave data behind the others, so that a
    /// busy one does not starve them.
    pub fn told(&self, session_id: i32, told: &[(TopicKey, i32, i64, i64, bool)]) {
        if session_id == 0 {
            return;
        }
        let mut sessions = self.lock();
        let Some(session) = sessions.get_mut(&session_id) else {
            return;
        };
        let told: HashMap<(&TopicKey, i32), (i64, i64, bool)> = told
            .iter()
            .map(|(topic, partition, high_watermark, log_start, gave)| {
                ((topic, *partition), (*high_watermark, *log_start, *gave))
            })
            .collect();
        let (mut quiet, mut busy) = (Vec::new(), Vec::new());
        for mut held in session.partitions.drain(..) {
            let gave = match told.get(&(&held.topic, held.partition)) {
                Some((high_watermark, log_start, gave)) => {
                    held.told_high_watermark = Some(*high_watermark);
                    held.told_log_start = *log_start;
                    *gave
                }
                None => false,
            };
            if gave {
                busy.push(held);
            } else {
                quiet.push(held);
            }
        }
        quiet.append(&mut busy);
        session.partitions = quiet;
    }
}

impl Session {
    /// Takes over what was said of partitions, known ones and new ones. Each is named once.
    fn merge(&mut self, asked: Vec<Wanted>) {
        if asked.is_empty() {
            return;
        }
        let place = |(place, held): (usize, &Wanted)| ((held.topic.clone(), held.partition), place);
        let places: HashMap<(TopicKey, i32), usize> =
            self.partitions.iter().enumerate().map(place).collect();
        for wanted in asked {
            match places.get(&(wanted.topic.clone(), wanted.partition)) {
                Some(place) => {
                    let held = &mut self.partitions[*place];
                    let (told, start) = (held.told_high_watermark, held.told_log_start);
                    *held = wanted;
                    held.told_high_watermark = told;
                    held.told_log_start = start;
                }
                None => self.partitions.push(wanted),
            }
        }
    }

    fn forget(&mut self, forgotten: &[(TopicKey, i32)]) {
        if forgotten.is_empty() {
            return;
        }
        let forgotten: HashSet<(&TopicKey, i32)> = forgotten
            .iter()
            .map(|(topic, partition)| (topic, *partition))
            .collect();
        self.partitions
            .retain(|held| !forgotten.contains(&(&held.topic, held.partition)));
    }
}

fn partitions_of(sessions: &HashMap<i32, Session>) -> usize {
    sessions
        .values()
        .map(|session| session.partitions.len())
        .sum()
}

/// Epochs count from 1 and never come back to 0 (Kafka's `FetchMetadata.nextEpoch`).
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32, offset: i64) -> Wanted {
        Wanted {
            topic: TopicKey::Id(Uuid::from_u128(5)),
            partition,
            offset,
            max_bytes: 100,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            told_high_watermark: None,
            told_log_start: -1,
        }
    }

    fn asked(id: i32, epoch: i32, partitions: Vec<Wanted>) -> Asked {
        Asked {
            id,
            epoch,
            by_id: true,
            partitions,
            forgotten: Vec::new(),
        }
    }

    #[test]
    fn a_session_remembers_what_was_asked_for() {
        let sessions = FetchSessions::new(10);
        let all = vec![wanted(0, 1), wanted(1, 2)];
        let plan = sessions
            .plan(asked(0, 0, all.clone()), 0, || 77)
            .expect("begins");
        assert_eq!((plan.session_id, plan.incremental), (77, false));
        let plan = sessions
            .plan(asked(77, 1, vec![]), 1, || 0)
            .expect("goes on");
        assert_eq!(plan.partitions, all);
        assert!(plan.incremental);
        let plan = sessions
            .plan(asked(77, 2, vec![wanted(1, 9)]), 2, || 0)
            .expect("goes on");
        assert_eq!(plan.partitions[1].offset, 9);
        let forget = Asked {
            forgotten: vec![(TopicKey::Id(Uuid::from_u128(5)), 0)],
            ..asked(77, 3, vec![])
        };
        let plan = sessions.plan(forget, 3, || 0).expect("goes on");
        assert_eq!(plan.partitions, [wanted(1, 9)]);
    }

    #[test]
    fn errors_are_exact() {
        let sessions = FetchSessions::new(10);
        assert_eq!(
            sessions.plan(asked(12_345, 1, vec![]), 0, || 0),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
        sessions
            .plan(asked(0, 0, vec![wanted(0, 0)]), 0, || 5)
            .expect("begins");
        assert_eq!(
            sessions.plan(asked(5, 2, vec![]), 0, || 0),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        assert_eq!(
            sessions.plan(asked(5, -5, vec![]), 0, || 0),
            Err(ErrorCode::InvalidFetchSessionEpoch),
            "only 0 and -1 are no epochs of a session"
        );
        let by_name = Asked {
            by_id: false,
            ..asked(5, 1, vec![wanted(0, 0)])
        };
        assert_eq!(
            sessions.plan(by_name, 0, || 0),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
        sessions.plan(asked(5, -1, vec![]), 0, || 0).expect("ends");
        assert!(sessions.is_empty());
    }

    #[test]
    fn a_session_without_partitions_ends() {
        let sessions = FetchSessions::new(10);
        sessions
            .plan(asked(0, 0, vec![wanted(0, 0)]), 0, || 5)
            .expect("begins");
        let forget = Asked {
            forgotten: vec![(TopicKey::Id(Uuid::from_u128(5)), 0)],
            ..asked(5, 1, vec![])
        };
        let plan = sessions.plan(forget, 0, || 0).expect("goes on");
        assert_eq!((plan.session_id, plan.partitions.len()), (0, 0));
        assert!(sessions.is_empty());
    }

    #[test]
    fn slots_are_bounded_and_only_a_long_unused_session_makes_room() {
        let sessions = FetchSessions::new(2);
        let mut next = 0;
        let mut begin = |now_ms| {
            next += 1;
            let id = next;
            let plan = sessions.plan(asked(0, 0, vec![wanted(0, 0)]), now_ms, || id);
            plan.expect("answers").session_id
        };
        assert_eq!((begin(0), begin(10)), (1, 2));
        assert_eq!(begin(20), 0, "full");
        assert_eq!(begin(120_000), 4, "the first one was unused for long");
        assert_eq!(sessions.len(), 2);
        assert_eq!(begin(120_000), 0);
    }

    #[test]
    fn partitions_are_bounded_over_all_sessions() {
        let sessions = FetchSessions::new(2);
        let most = 2 * PARTITIONS_PER_SLOT as i32;
        let of = |range: std::ops::Range<i32>| range.map(|index| wanted(index, 0)).collect();
        let begin = |partitions, id| {
            let plan = sessions.plan(asked(0, 0, partitions), 0, || id);
            plan.expect("answers").session_id
        };
        assert_eq!(begin(of(0..most + 1), 5), 0, "alone too large");
        assert_eq!(begin(of(0..most - 1), 5), 5);
        assert_eq!(begin(of(0..2), 6), 0, "no room left");
        assert_eq!(begin(of(0..1), 6), 6);
        let plan = sessions.plan(asked(5, 1, of(0..3)), 0, || 0);
        assert_eq!(plan.expect("changes").partitions.len(), most as usize - 1);
        assert_eq!(
            sessions.plan(asked(6, 1, of(1..2)), 0, || 0),
            Err(ErrorCode::FetchSessionIdNotFound),
            "grows too large"
        );
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn partitions_that_gave_data_go_behind_the_others() {
        let sessions = FetchSessions::new(2);
        let all = vec![wanted(0, 0), wanted(1, 0), wanted(2, 0)];
        sessions.plan(asked(0, 0, all), 0, || 9).expect("begins");
        let topic = TopicKey::Id(Uuid::from_u128(5));
        sessions.told(
            9,
            &[(topic.clone(), 0, 7, 0, true), (topic, 1, 8, 0, false)],
        );
        let plan = sessions
            .plan(asked(9, 1, vec![]), 0, || 0)
            .expect("goes on");
        let order: Vec<_> = plan.partitions.iter().map(|held| held.partition).collect();
        assert_eq!(order, [1, 2, 0]);
        assert_eq!(plan.partitions[2].told_high_watermark, Some(7));
        assert_eq!(plan.partitions[1].told_high_watermark, None);
    }
}
