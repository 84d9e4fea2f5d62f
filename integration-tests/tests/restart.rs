//! The restart run: more than 100,000 keyed lines of real text go into six partitions while the broker is killed
//! with SIGKILL twenty times; afterwards every acknowledged line is where its acknowledgement said.
//!
//! The moments are random: after a random number of acknowledgements, or at once after a start. The seed is printed;
//! `OTTLA_TEST_SEED` repeats its thresholds. `OTTLA_RESTART_ROUNDS` repeats each run with further seeds.
//! A producer of one client library writes, another one (kcat) reads back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ottla_integration_tests::broker::free_port;
use ottla_integration_tests::clients::{confluent_kafka, kcat, wordnet_key, wordnet_lines};
use ottla_integration_tests::{Broker, Process, TempDir, seed, unique};

const KILLS: usize = 20;
const PARTITIONS: &str = "6";
/// For one step of the run to show progress.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn an_idempotent_producer_with_five_in_flight_stores_every_line_once_and_in_order() {
    rounds(
        "idempotent",
        &["enable.idempotence=true", "max.in.flight=5"],
        |run| {
            let repeated = run.repeated_lines();
            assert!(
                repeated.is_empty(),
                "lines stored more than once: {repeated:?}"
            );
            run.check_order();
        },
    );
}

#[test]
fn a_plain_producer_with_one_in_flight_stores_every_line_in_order() {
    rounds(
        "ordered",
        &["enable.idempotence=false", "max.in.flight=1"],
        |run| run.check_order(),
    );
}

#[test]
fn a_plain_producer_stores_every_acknowledged_line_at_least_once() {
    rounds("plain", &["enable.idempotence=false"], |_| ());
}

/// Runs until all is acknowledged, reads back, checks what holds for every producer, then what `check` adds.
fn rounds(name: &str, settings: &[&str], check: impl Fn(&Finished)) {
    let rounds = std::env::var("OTTLA_RESTART_ROUNDS")
        .map_or(1, |text| text.parse().expect("a number of rounds"));
    let first_seed = seed();
    for seed in (0..rounds).map(|round| first_seed.wrapping_add(round)) {
        println!("{name}: OTTLA_TEST_SEED={seed}");
        let finished = Finished::run(name, settings, seed);
        finished.check_acknowledged();
        check(&finished);
        let extra = finished.stored.len() - finished.lines.len();
        println!(
            "{name}: {} lines acknowledged over {KILLS} kills, {extra} stored twice",
            finished.lines.len()
        );
    }
}

/// Where a line lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    partition: i32,
    offset: i64,
}

/// A run that ended: what was sent, what was acknowledged, what the broker then gave back.
struct Finished {
    lines: Vec<String>,
    /// Line number and place, in the order of acknowledgement. Offset -1: stored before, place unknown to the client.
    acknowledged: Vec<(usize, Place)>,
    /// What a consumer read, by place, with its line number.
    stored: BTreeMap<Place, usize>,
}

impl Finished {
    fn run(name: &str, settings: &[&str], seed: u64) -> Finished {
        let folder = TempDir::new(name);
        let lines = wordnet_lines();
        assert!(lines.len() >= 100_000, "WordNet has {} lines", lines.len());
        let input = folder.path().join("input");
        let text: String = lines
            .iter()
            .map(|line| format!("{}\t{line}\n", wordnet_key(line)))
            .collect();
        std::fs::write(&input, text).expect("a file in the test's folder");

        let listener = format!("PLAINTEXT://127.0.0.1:{}", free_port());
        let data = folder.path().join("data");
        let mut broker = Broker::start(
            &data,
            &[("listeners", &listener), ("num.partitions", PARTITIONS)],
        );
        broker.allow_log("unclean");
        let topic = unique(name);
        let input = input.display().to_string();
        let bootstrap = broker.bootstrap();
        let arguments = [&[bootstrap.as_str(), &topic, &input], settings].concat();
        let producer = confluent_kafka("restart_producer.py")
            .args(arguments)
            .start();

        let mut random = fastrand::Rng::with_seed(seed);
        let mut thresholds: Vec<usize> = (0..KILLS)
            .map(|_| random.usize(1..lines.len() * 19 / 20))
            .collect();
        thresholds.sort_unstable();
        for (kill, &threshold) in thresholds.iter().enumerate() {
            // One in five dies as soon as it serves, before anything new is acknowledged.
            if kill == 0 || random.u8(0..5) > 0 {
                wait_for_acknowledgements(&producer, threshold);
            }
            broker.kill9();
            broker.restart();
        }
        let status = producer
            .wait(PATIENCE)
            .unwrap_or_else(|| panic!("did not end\n{}", tail(&producer)));
        assert!(status.success(), "{}", tail(&producer));
        assert!(producer.stdout.wait_for_end(PATIENCE));

        let acknowledged = producer
            .stdout
            .all()
            .iter()
            .map(|line| acknowledgement(line))
            .collect();
        let stored = read_back(&broker, &topic, &lines);
        Finished {
            lines,
            acknowledged,
            stored,
        }
    }

    /// Holds for every producer: each line was acknowledged, and lies where its acknowledgement said.
    fn check_acknowledged(&self) {
        let mut seen = vec![0_u32; self.lines.len()];
        for &line in self.stored.values() {
            seen[line] += 1;
        }
        let mut acknowledged = vec![false; self.lines.len()];
        for &(line, place) in &self.acknowledged {
            assert!(!acknowledged[line], "line {line} acknowledged twice");
            acknowledged[line] = true;
            assert!(
                seen[line] > 0,
                "line {line}, acknowledged at {place:?}, is lost"
            );
            if place.offset >= 0 {
                assert_eq!(
                    self.stored.get(&place),
                    Some(&line),
                    "acknowledged at {place:?}"
                );
            }
        }
        let missing = acknowledged
            .iter()
            .filter(|acknowledged| !**acknowledged)
            .count();
        assert_eq!(missing, 0, "lines without an acknowledgement");
    }

    /// Lines that lie in the log more than once.
    fn repeated_lines(&self) -> Vec<usize> {
        let mut count: HashMap<usize, u32> = HashMap::new();
        for &line in self.stored.values() {
            *count.entry(line).or_default() += 1;
        }
        count
            .into_iter()
            .filter(|(_, count)| *count > 1)
            .map(|(line, _)| line)
            .collect()
    }

    /// The lines of each partition, and with them those of each key, stand in the order they were sent. A batch that
    /// was sent again may repeat lines, but only those right before it: first and last places are in order both.
    fn check_order(&self) {
        let mut partition_of_key = HashMap::new();
        for (place, &line) in &self.stored {
            let key = wordnet_key(&self.lines[line]);
            let known = *partition_of_key.entry(key).or_insert(place.partition);
            assert_eq!(known, place.partition, "key {key} in two partitions");
        }
        let forwards = self.stored.iter();
        check_first_places(forwards.map(|(place, &line)| (place.partition, line as i64)));
        let backwards = self.stored.iter().rev();
        check_first_places(backwards.map(|(place, &line)| (place.partition, -(line as i64))));
    }
}

/// First places of lines ascend in every partition.
fn check_first_places(places: impl Iterator<Item = (i32, i64)>) {
    let mut seen = std::collections::HashSet::new();
    let mut newest: HashMap<i32, i64> = HashMap::new();
    for (partition, line) in places {
        if seen.insert(line) {
            let newest = newest.entry(partition).or_insert(i64::MIN);
            assert!(
                line > *newest,
                "partition {partition}: line {line} stands behind line {newest}"
            );
            *newest = line;
        }
    }
}

fn wait_for_acknowledgements(producer: &Process, count: usize) {
    let reached = producer
        .stdout
        .wait_for(PATIENCE, |lines| (lines.len() >= count).then_some(()));
    reached.unwrap_or_else(|| panic!("no {count} acknowledgements came\n{}", tail(producer)));
}

/// The end of what the producer said, and how far it came.
fn tail(producer: &Process) -> String {
    let errors = producer.stderr.all();
    let last = errors[errors.len().saturating_sub(20)..].join("\n");
    format!(
        "{} acknowledgements; stderr ends with:\n{last}",
        producer.stdout.all().len()
    )
}

fn acknowledgement(line: &str) -> (usize, Place) {
    let numbers: Vec<i64> = line
        .split(' ')
        .map(|text| text.parse().expect("a number"))
        .collect();
    let [line, partition, offset] = numbers[..] else {
        panic!("not an acknowledgement: {numbers:?}")
    };
    (
        line as usize,
        Place {
            partition: partition as i32,
            offset,
        },
    )
}

/// Reads every partition to its end and checks that each record is a line as it was sent, and that offsets have no gap.
fn read_back(broker: &Broker, topic: &str, lines: &[String]) -> BTreeMap<Place, usize> {
    let format = ["-f", "%p\t%o\t%h\t%k\t%s\n"];
    let consume = kcat(broker)
        .args(["-C", "-e", "-q", "-t", topic, "-o", "beginning"])
        .args(format);
    let output = consume.timeout(PATIENCE).succeed();
    let mut stored = BTreeMap::new();
    for record in output.lines() {
        let fields: Vec<&str> = record.splitn(5, '\t').collect();
        let [partition, offset, header, key, value] = fields[..] else {
            panic!("not a record: {record:?}")
        };
        let line: usize = header
            .strip_prefix("line=")
            .and_then(|line| line.parse().ok())
            .expect("its line number");
        assert_eq!(
            (key, value),
            (wordnet_key(&lines[line]), lines[line].as_str()),
            "line {line}"
        );
        let partition = partition.parse().expect("a partition");
        let place = Place {
            partition,
            offset: offset.parse().expect("an offset"),
        };
        assert_eq!(stored.insert(place, line), None, "read twice: {place:?}");
    }
    let mut next: HashMap<i32, i64> = HashMap::new();
    for place in stored.keys() {
        let next = next.entry(place.partition).or_default();
        assert_eq!(
            place.offset, *next,
            "offsets of partition {} have a gap",
            place.partition
        );
        *next += 1;
    }
    assert_eq!(
        next.len().to_string(),
        PARTITIONS,
        "all partitions hold lines"
    );
    stored
}

/// The checks themselves, on logs made by hand: a check that finds nothing would let everything pass.
mod checks {
    use super::*;

    /// A log of one partition that holds these lines, all acknowledged at their first place.
    fn finished(lines: usize, stored: &[usize]) -> Finished {
        let place = |offset: usize| Place {
            partition: 0,
            offset: offset as i64,
        };
        let first = |line: usize| {
            stored
                .iter()
                .position(|&stored| stored == line)
                .unwrap_or(0)
        };
        Finished {
            lines: (0..lines)
                .map(|line| format!("{line:08} 00 n 01 word 0 | text"))
                .collect(),
            acknowledged: (0..lines).map(|line| (line, place(first(line)))).collect(),
            stored: stored
                .iter()
                .enumerate()
                .map(|(offset, &line)| (place(offset), line))
                .collect(),
        }
    }

    #[test]
    fn a_batch_sent_again_is_in_order() {
        let run = finished(5, &[0, 1, 2, 1, 2, 3, 4]);
        run.check_acknowledged();
        run.check_order();
        let mut repeated = run.repeated_lines();
        repeated.sort_unstable();
        assert_eq!(repeated, [1, 2]);
    }

    #[test]
    #[should_panic(expected = "line 1 stands behind line 2")]
    fn a_batch_that_overtook_is_found() {
        finished(4, &[0, 2, 1, 3]).check_order();
    }

    #[test]
    #[should_panic(expected = "stands behind")]
    fn a_batch_repeated_too_late_is_found() {
        finished(4, &[0, 1, 2, 3, 1]).check_order();
    }

    #[test]
    #[should_panic(expected = "line 2, acknowledged at")]
    fn a_lost_line_is_found() {
        finished(4, &[0, 1, 3]).check_acknowledged();
    }

    #[test]
    #[should_panic(expected = "acknowledged at")]
    fn a_line_at_another_place_is_found() {
        let mut run = finished(3, &[0, 1, 2]);
        run.acknowledged[1].1.offset = 2;
        run.check_acknowledged();
    }
}
