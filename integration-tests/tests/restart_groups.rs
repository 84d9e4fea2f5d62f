//! The restart run with a group beside it: three members of two clients read what a producer writes, while members
//! and the broker are killed at random moments for some time.
//!
//! Afterwards every acknowledged record was read at least once, no record by two members in one generation, and the
//! committed offsets in `__consumer_offsets`, in the order of its log, never go back and end where the topic ends.
//! Moments are random: after a random number of records. The seed is printed; `OTTLA_TEST_SEED` repeats the choices.
//! `OTTLA_STORM_SECONDS` says how long it lasts (120).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ottla::env::Env;
use ottla_integration_tests::broker::free_port;
use ottla_integration_tests::clients::{
    confluent_kafka, franz_go, kafka_python, kafka_tool, kcat, wordnet_key, wordnet_lines,
};
use ottla_integration_tests::{Broker, Process, Run, TempDir, seed, unique};
use rustix::process::Signal;
use serde_json::{Deserializer, Value};

const PARTITIONS: &str = "6";
/// Lines that one run of the producer writes.
const LINES: usize = 5_000;
/// For one step of the run to show progress: above the session timeout of members that were killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The two clients; both know the range assignor.
const CLIENTS: [Program; 2] = [("franz-go", franz_go), ("kafka-python", kafka_python)];

/// A client's name and a fresh run of it.
type Program = (&'static str, fn() -> Run);

/// A run of offsets that a member read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Read {
    partition: i32,
    first: i64,
    last: i64,
    generation: i64,
}

/// A member, running or killed.
struct Member {
    name: String,
    process: Process,
    is_running: bool,
}

impl Member {
    fn reads(&self) -> Vec<Read> {
        let told = self.process.stdout.all();
        told.iter().filter_map(|line| read(line)).collect()
    }
}

fn read(line: &str) -> Option<Read> {
    let told: Value = serde_json::from_str(line).expect("the client prints JSON lines");
    if told["event"] != "read" {
        return None;
    }
    let number = |name: &str| {
        told[name]
            .as_i64()
            .unwrap_or_else(|| panic!("{name}: {line}"))
    };
    let (first, last) = (number("first"), number("last"));
    assert_eq!(
        number("count"),
        last - first + 1,
        "offsets have no gap: {line}"
    );
    Some(Read {
        partition: number("partition") as i32,
        first,
        last,
        generation: number("generation"),
    })
}

struct Storm {
    broker: Broker,
    topic: String,
    group: String,
    input: String,
    members: Vec<Member>,
    producer: Process,
    acknowledged: usize,
    random: fastrand::Rng,
    broker_kills: usize,
    member_kills: usize,
    leaves: usize,
}

#[test]
fn members_and_broker_die_and_the_group_reads_all_and_goes_on_where_it_was() {
    let seed = seed();
    println!("OTTLA_TEST_SEED={seed}");
    let seconds = std::env::var("OTTLA_STORM_SECONDS")
        .map_or(120, |text| text.parse().expect("a number of seconds"));
    let folder = TempDir::new("storm");
    let mut storm = Storm::new(&folder, seed);
    let env = Env::system();
    let end = env.monotonic() + Duration::from_secs(seconds);
    while env.monotonic() < end {
        storm.wait_for_progress();
        storm.strike();
    }
    storm.settle();
    storm.check();
}

impl Storm {
    fn new(folder: &TempDir, seed: u64) -> Storm {
        let lines = wordnet_lines();
        let input = folder.path().join("input");
        let text: String = lines
            .iter()
            .step_by(lines.len() / LINES)
            .map(|line| format!("{}\t{line}\n", wordnet_key(line)))
            .collect();
        std::fs::write(&input, text).expect("a file in the test's folder");
        let input = input.display().to_string();
        let listener = format!("PLAINTEXT://127.0.0.1:{}", free_port());
        let properties = [
            ("listeners", listener.as_str()),
            ("num.partitions", PARTITIONS),
            ("group.initial.rebalance.delay.ms", "0"),
        ];
        let mut broker = Broker::start(&folder.path().join("data"), &properties);
        broker.allow_log("unclean");
        let topic = unique("storm");
        let producer = produce(&broker, &topic, &input);
        let mut storm = Storm {
            broker,
            topic,
            group: unique("group"),
            input,
            members: Vec::new(),
            producer,
            acknowledged: 0,
            random: fastrand::Rng::with_seed(seed),
            broker_kills: 0,
            member_kills: 0,
            leaves: 0,
        };
        for client in [0, 1, 0] {
            storm.join(client);
        }
        storm
    }

    fn join(&mut self, client: usize) {
        let (name, program) = CLIENTS[client];
        let bootstrap = self.broker.bootstrap();
        let process = program()
            .args(["storm", bootstrap.as_str(), &self.topic, &self.group])
            .timeout(PATIENCE * 10)
            .start();
        self.members.push(Member {
            name: format!("{} ({name})", self.members.len()),
            process,
            is_running: true,
        });
    }

    /// Every distinct record that anybody has read.
    fn read_so_far(&self) -> usize {
        let mut places = Places::default();
        for read in self.members.iter().flat_map(Member::reads) {
            places.add(read);
        }
        places.count()
    }

    /// Waits until a random number of records more are read, and keeps the producer going.
    fn wait_for_progress(&mut self) {
        let wanted = self.read_so_far() + self.random.usize(1..LINES);
        let env = Env::system();
        let deadline = env.monotonic() + PATIENCE;
        while self.read_so_far() < wanted {
            self.feed();
            assert!(env.monotonic() < deadline, "no progress\n{}", self.told());
            self.check_running();
            self.wait_a_moment();
        }
    }

    /// Waits for any line of the last running member, or a moment without one: the caller's deadline counts.
    fn wait_a_moment(&self) {
        let member = self.members.iter().rfind(|member| member.is_running);
        let member = member.expect("there are always some");
        let seen = member.process.stdout.all().len();
        let moment = Duration::from_millis(200);
        let _ = member
            .process
            .stdout
            .wait_for(moment, |lines| (lines.len() > seen).then_some(()));
    }

    /// Starts the producer again when it has written all it was given.
    fn feed(&mut self) {
        if let Some(status) = self.producer.wait(Duration::ZERO) {
            assert!(status.success(), "{}", self.producer.output());
            assert!(self.producer.stdout.wait_for_end(PATIENCE));
            self.acknowledged += self.producer.stdout.all().len();
            self.producer = produce(&self.broker, &self.topic, &self.input);
        }
    }

    /// Nobody ends unasked.
    fn check_running(&self) {
        for member in self.members.iter().filter(|member| member.is_running) {
            let ended = member.process.wait(Duration::ZERO);
            assert!(
                ended.is_none(),
                "{} ended:\n{}",
                member.name,
                tail(&member.process)
            );
        }
    }

    /// Somebody dies, or leaves.
    fn strike(&mut self) {
        if self.random.u8(0..10) < 3 {
            self.broker_kills += 1;
            self.broker.kill9();
            self.broker.restart();
            return;
        }
        let running: Vec<usize> = (0..self.members.len())
            .filter(|index| self.members[*index].is_running)
            .collect();
        let victim = running[self.random.usize(0..running.len())];
        let leaves = self.random.u8(0..3) == 0;
        let signal = if leaves { Signal::TERM } else { Signal::KILL };
        let member = &mut self.members[victim];
        member.process.signal(signal);
        let ended = member.process.wait(PATIENCE);
        assert!(ended.is_some(), "{} does not end", member.name);
        assert!(member.process.stdout.wait_for_end(PATIENCE));
        member.is_running = false;
        if leaves {
            self.leaves += 1;
        } else {
            self.member_kills += 1;
        }
        let client = self.random.usize(0..CLIENTS.len());
        self.join(client);
    }

    /// Lets the producer end and the members read the rest and leave.
    fn settle(&mut self) {
        let status = self.producer.wait(PATIENCE);
        assert!(
            status.is_some_and(|status| status.success()),
            "{}",
            self.producer.output()
        );
        assert!(self.producer.stdout.wait_for_end(PATIENCE));
        self.acknowledged += self.producer.stdout.all().len();
        let stored: usize = self.stored().values().map(|end| *end as usize).sum();
        let env = Env::system();
        let deadline = env.monotonic() + PATIENCE;
        while self.read_so_far() < stored {
            assert!(
                env.monotonic() < deadline,
                "the rest is not read\n{}",
                self.told()
            );
            self.wait_a_moment();
        }
        for member in self.members.iter_mut().filter(|member| member.is_running) {
            member.process.signal(Signal::TERM);
            let status = member.process.wait(PATIENCE);
            assert!(
                status.is_some_and(|status| status.success()),
                "{}: {}",
                member.name,
                member.process.output()
            );
            assert!(member.process.stdout.wait_for_end(PATIENCE));
        }
    }

    /// The end of every partition.
    fn stored(&self) -> BTreeMap<i32, i64> {
        let partitions: i32 = PARTITIONS.parse().expect("a number");
        let asked: Vec<String> = (0..partitions)
            .flat_map(|partition| ["-t".to_owned(), format!("{}:{partition}:-1", self.topic)])
            .collect();
        let output = kcat(&self.broker).args(["-Q"]).args(asked).succeed();
        let ends = output.lines().into_iter().map(|line| {
            // `topic [0] offset 123`
            let words: Vec<&str> = line.split(' ').collect();
            let partition = words[1]
                .trim_matches(['[', ']'])
                .parse()
                .expect("a partition");
            (partition, words[3].parse().expect("an offset"))
        });
        ends.collect()
    }

    fn check(&self) {
        let stored = self.stored();
        let total: i64 = stored.values().sum();
        assert!(
            total as usize >= self.acknowledged,
            "acknowledged records are gone"
        );
        let mut places = Places::default();
        let mut owners: HashMap<(i64, i32, i64), &str> = HashMap::new();
        let mut generations = std::collections::BTreeSet::new();
        for member in &self.members {
            for read in member.reads() {
                places.add(read);
                generations.insert(read.generation);
                for offset in read.first..=read.last {
                    let key = (read.generation, read.partition, offset);
                    let owner = owners.insert(key, &member.name);
                    assert!(
                        owner.is_none_or(|owner| owner == member.name),
                        "{key:?} (generation, partition, offset) was read by {owner:?} and {}",
                        member.name
                    );
                }
            }
        }
        for (partition, end) in &stored {
            assert_eq!(
                places.gap(*partition, *end),
                None,
                "not read in partition {partition}"
            );
        }
        let commits = self.commits();
        for (partition, offsets) in &commits {
            assert!(
                offsets.is_sorted(),
                "committed offsets of partition {partition} go back: {offsets:?}"
            );
            assert_eq!(
                offsets.last(),
                stored.get(partition),
                "partition {partition}"
            );
        }
        assert_eq!(commits.len(), stored.len(), "every partition has commits");
        println!(
            "{} kills of the broker, {} of members, {} leaves; {} generations; {} records acknowledged, {total} stored, {} read; {} commits",
            self.broker_kills,
            self.member_kills,
            self.leaves,
            generations.len(),
            self.acknowledged,
            owners.len(),
            commits.values().map(Vec::len).sum::<usize>(),
        );
        assert!(
            self.broker_kills > 0 && self.member_kills > 0,
            "nobody died"
        );
    }

    /// Every committed offset of the topic in the order of the log, as Kafka's own console consumer reads them.
    fn commits(&self) -> BTreeMap<i32, Vec<i64>> {
        let bootstrap = self.broker.bootstrap();
        let output = kafka_tool("org.apache.kafka.tools.consumer.ConsoleConsumer")
            .args([
                "--bootstrap-server",
                &bootstrap,
                "--topic",
                "__consumer_offsets",
            ])
            .args(["--from-beginning", "--timeout-ms", "5000"])
            .args([
                "--formatter",
                "org.apache.kafka.tools.consumer.OffsetsMessageFormatter",
            ])
            .finish();
        let text = output.lines().join("\n");
        let mut commits: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for record in Deserializer::from_str(&text).into_iter::<Value>() {
            let Ok(record) = record else { break };
            let key = &record["key"]["data"];
            if key["group"] == self.group.as_str() && key["topic"] == self.topic.as_str() {
                let partition = key["partition"].as_i64().expect("a partition") as i32;
                let offset = record["value"]["data"]["offset"].as_i64();
                commits.entry(partition).or_default().extend(offset);
            }
        }
        commits
    }

    fn told(&self) -> String {
        let members = self.members.iter().filter(|member| member.is_running);
        let told = members.map(|member| format!("{}\n{}", member.name, tail(&member.process)));
        told.collect::<Vec<_>>().join("\n")
    }
}

fn tail(process: &Process) -> String {
    let output = process.output();
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn produce(broker: &Broker, topic: &str, input: &str) -> Process {
    confluent_kafka("restart_producer.py")
        .args([
            broker.bootstrap().as_str(),
            topic,
            input,
            "enable.idempotence=true",
        ])
        .start()
}

/// Which offsets of which partitions were read.
#[derive(Default)]
struct Places {
    /// First to after the last, apart from each other.
    runs: BTreeMap<i32, BTreeMap<i64, i64>>,
}

impl Places {
    fn add(&mut self, read: Read) {
        let runs = self.runs.entry(read.partition).or_default();
        let (mut first, mut end) = (read.first, read.last + 1);
        while let Some((&near_first, &near_end)) = runs.range(..=end).next_back() {
            if near_end < first {
                break;
            }
            first = first.min(near_first);
            end = end.max(near_end);
            runs.remove(&near_first);
        }
        runs.insert(first, end);
    }

    fn count(&self) -> usize {
        let runs = self.runs.values().flatten();
        runs.map(|(first, end)| (end - first) as usize).sum()
    }

    /// The first offset below `end` that nobody read.
    fn gap(&self, partition: i32, end: i64) -> Option<i64> {
        let runs = self.runs.get(&partition);
        let first = runs.and_then(|runs| runs.first_key_value());
        match first {
            Some((0, read)) if *read >= end => None,
            Some((0, read)) => Some(*read),
            _ => (end > 0).then_some(0),
        }
    }
}

#[test]
fn gaps_between_runs_are_found() {
    let mut places = Places::default();
    let run = |first, last| Read {
        partition: 0,
        first,
        last,
        generation: 1,
    };
    assert_eq!((places.gap(0, 0), places.gap(0, 1)), (None, Some(0)));
    for (first, last) in [(0, 4), (10, 12), (3, 6), (8, 8)] {
        places.add(run(first, last));
    }
    assert_eq!((places.count(), places.gap(0, 13)), (11, Some(7)));
    places.add(run(7, 9));
    assert_eq!((places.count(), places.gap(0, 13)), (13, None));
    assert_eq!(places.gap(0, 14), Some(13));
}
