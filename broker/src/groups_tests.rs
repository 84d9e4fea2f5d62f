//! A shard over an engine in memory: what its clients were told survives power cuts, whether it is loaded from its
//! view or from its whole log.

use std::collections::BTreeMap;

use ottla_coordinator::group::{
    Caller, CommitPartition, CommitTopic, OffsetCommit, TopicPartitions,
};
use ottla_storage::keys::PartitionId;
use ottla_storage::log::NoObserver;
use ottla_storage::memory::MemoryEngine;

use super::*;

const DIRECTORY: Uuid = Uuid::from_u128(5);
const PARTITION: PartitionId = PartitionId {
    topic_id: Uuid::from_u128(9),
    partition: 0,
};

struct Running {
    log: Log,
    handle: Handle<GroupShard>,
    task: JoinHandle<()>,
    stop: CancellationToken,
    replayed_from: i64,
}

async fn start(engine: &Arc<MemoryEngine>, forget_view: bool) -> Running {
    let env = Env::system();
    let log = Log::open(engine.clone(), 1, Arc::new(env), Arc::new(NoObserver)).expect("opens");
    let created = log.create(vec![PARTITION]).await.expect("creates");
    let partition = created[0].clone();
    partition.become_leader(0, vec![1]);
    let view = log.view(&partition, DIRECTORY, FAMILIES);
    if forget_view {
        view.clear().expect("clears");
    }
    let end = partition.offsets().high_watermark;
    let replayed_from = view.load(end, &mut |_, _| ()).expect("reads");
    let stop = CancellationToken::new();
    let shard = GroupShard::new(GroupConfig::default(), view);
    let shard_log = ShardLog {
        log: log.clone(),
        partition,
    };
    let (handle, task) = driver::start(shard, shard_log, env, stop.clone())
        .await
        .expect("loads");
    Running {
        log,
        handle,
        task,
        stop,
        replayed_from,
    }
}

impl Running {
    /// Ends it; nothing that was not synced is left.
    async fn power_cut(self, engine: &MemoryEngine) {
        engine.power_off();
        self.stop.cancel();
        self.task.await.expect("ends");
        // What it could not write is what a power cut is about.
        let _ = self.log.close().await;
        engine.power_on();
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("ends");
        self.log.close().await.expect("closes");
    }

    async fn ask(&self, command: Command) -> Reply {
        self.handle.ask(command).await.expect("is answered")
    }

    async fn commit(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        let commit = OffsetCommit {
            caller: Caller {
                group: group.to_owned(),
                generation: -1,
                ..Caller::default()
            },
            retention_ms: None,
            topics: vec![CommitTopic {
                name: topic.to_owned(),
                topic_id: Uuid::nil(),
                partitions: vec![CommitPartition {
                    partition,
                    offset,
                    leader_epoch: -1,
                    metadata: None,
                }],
            }],
        };
        let reply = self.ask(Command::OffsetCommit(commit)).await;
        let Reply::Committed(results) = reply else {
            panic!("{reply:?}")
        };
        assert!(results[0].partitions[0].1.is_ok(), "{results:?}");
    }

    /// Every committed offset of these groups.
    async fn offsets(&self, groups: &[String]) -> BTreeMap<(String, String, i32), i64> {
        let mut found = BTreeMap::new();
        for group in groups {
            let command = Command::OffsetFetch {
                group: group.clone(),
                topics: None,
            };
            let Reply::Fetched(topics) = self.ask(command).await else {
                panic!("not fetched")
            };
            for topic in topics {
                for (partition, committed) in topic.partitions {
                    let offset = committed.expect("only committed ones").offset;
                    found.insert((group.clone(), topic.topic.to_string(), partition), offset);
                }
            }
        }
        found
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_power_cuts_with_the_view_and_without() {
    let mut from_view = 0;
    for seed in 0..40 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let engine = Arc::new(MemoryEngine::new());
        let mut expected = BTreeMap::new();
        let groups: Vec<String> = (0..4).map(|group| format!("g{group}")).collect();
        for _ in 0..4 {
            let forget_view = rng.u8(0..4) == 0;
            let running = start(&engine, forget_view).await;
            from_view += i32::from(running.replayed_from > 0);
            assert_eq!(running.offsets(&groups).await, expected);
            for _ in 0..rng.usize(0..40) {
                let group = &groups[rng.usize(0..groups.len())];
                let topic = format!("t{}", rng.u8(0..3));
                match rng.u8(0..20) {
                    0 => {
                        let command = Command::DeleteGroup {
                            group: group.clone(),
                        };
                        running.ask(command).await;
                        expected.retain(|(of, _, _), _| of != group);
                    }
                    1 => {
                        let topics = vec![TopicPartitions {
                            topic: topic.clone(),
                            partitions: vec![0],
                        }];
                        let group = group.clone();
                        let command = Command::OffsetDelete {
                            group: group.clone(),
                            topics,
                        };
                        running.ask(command).await;
                        expected.remove(&(group, topic, 0));
                    }
                    _ => {
                        let (partition, offset) = (rng.i32(0..3), rng.i64(0..1_000));
                        running.commit(group, &topic, partition, offset).await;
                        expected.insert((group.clone(), topic, partition), offset);
                    }
                }
            }
            assert_eq!(running.offsets(&groups).await, expected);
            if rng.bool() {
                running.power_cut(&engine).await;
            } else {
                running.stop().await;
            }
        }
    }
    assert!(from_view > 40, "only {from_view} loads began in a view");
}

#[tokio::test]
async fn a_stop_answers_who_waits_in_a_group() {
    let engine = Arc::new(MemoryEngine::new());
    let running = start(&engine, false).await;
    let join = ottla_coordinator::group::JoinGroup {
        group: "g".to_owned(),
        member_id: String::new(),
        fresh_member_id: "m".to_owned(),
        group_instance_id: None,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::new())],
        client_id: String::new(),
        client_host: String::new(),
        require_known_member_id: false,
        supports_skip_assignment: false,
    };
    let handle = running.handle.clone();
    let parked = tokio::spawn(async move { handle.ask(Command::JoinGroup(join)).await });
    // Commands are taken in order: when this one is answered, the join is parked.
    while !matches!(
        running
            .ask(Command::DescribeGroup {
                group: "g".to_owned()
            })
            .await,
        Reply::Described(_)
    ) {
        tokio::task::yield_now().await;
    }
    running.stop().await;
    let answer = parked.await.expect("joins");
    assert_eq!(answer, Err(ErrorCode::CoordinatorNotAvailable));
}

#[tokio::test]
async fn bad_records_are_passed_over_and_the_rest_is_loaded() {
    use ottla_protocol::batch::{BatchBuilder, BatchHeader};
    use ottla_storage::log::AppendEntry;
    use ottla_storage::waiters::Acks;

    let engine = Arc::new(MemoryEngine::new());
    let running = start(&engine, false).await;
    running.commit("g", "t", 0, 7).await;
    let partition = running.log.partition(PARTITION).expect("is there");
    let bytes = BatchBuilder::new(0)
        .record(0, Some(b"\0\x09unknown kind"), Some(b"x"), &[])
        .record(0, Some(b"\0"), Some(b"cut"), &[])
        .record(0, None, None, &[])
        .build();
    let entry = AppendEntry {
        header: BatchHeader::parse(&bytes).expect("a batch"),
        bytes: bytes.into(),
        leader_epoch: 0,
        partition,
    };
    let answers = running.log.append(vec![entry], Acks::All).await;
    let answers = answers.expect("is taken").await.expect("is answered");
    assert!(answers[0].is_ok(), "{answers:?}");
    running.commit("g", "t", 1, 8).await;
    running.stop().await;
    let running = start(&engine, true).await;
    let offsets = running.offsets(&["g".to_owned()]).await;
    assert_eq!(offsets.values().copied().collect::<Vec<_>>(), [7, 8]);
    running.stop().await;
}

#[tokio::test]
async fn a_view_that_could_not_be_written_misses_nothing_afterwards() {
    use ottla_coordinator::group_record::OffsetCommitValue;
    use ottla_storage::error::EngineError;

    let engine = Arc::new(MemoryEngine::new());
    let env = Env::system();
    let log = Log::open(engine.clone(), 1, Arc::new(env), Arc::new(NoObserver)).expect("opens");
    let created = log.create(vec![PARTITION]).await.expect("creates");
    let view = log.view(&created[0], DIRECTORY, FAMILIES);
    let mut shard = GroupShard::new(GroupConfig::default(), view.clone());
    let committed = |partition: i32| GroupRecord::OffsetCommit {
        group: "group".into(),
        topic: "topic".into(),
        partition,
        value: Some(OffsetCommitValue {
            offset: 7,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp: 0,
            expire_timestamp: None,
            topic_id: Uuid::nil(),
        }),
    };
    engine.fail_writes(Some(EngineError::Full("test".to_owned())));
    for partition in 0..20 {
        shard.keep(&committed(partition), i64::from(partition) + 1);
        shard.write_if_many();
    }
    engine.fail_writes(None);
    shard.keep(&committed(20), 21);
    shard.write_if_many();
    let mut records = 0;
    let next = view.load(21, &mut |_, _| records += 1).expect("reads");
    assert_eq!((next, records), (21, 21));
    log.close().await.expect("closes");
}
