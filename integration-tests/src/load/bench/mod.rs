//! `make bench`: Ottla and Apache Kafka under the same loads, in turn, round after round.
//!
//! Each case of each round starts its broker on an empty folder, loads it, and removes it; the two brokers take turns
//! in going first. Medians of the rounds and their ratios go between the markers of `docs/BENCHMARKS.md`.

pub mod beside;
pub mod broker;
pub mod cases;
pub mod disk;
pub mod figures;
pub mod machine;
pub mod report;
pub mod settings;
pub mod standstill;

use std::io;

use ottla::env::Env;
use tokio::signal::unix::{SignalKind, signal};

use broker::{Flush, Kit, Product};
use cases::{PRODUCING, Stage};
use figures::Figures;
use report::{Facts, number};
use settings::Settings;

use crate::load::failed;

/// Measures everything that was chosen and writes the tables. An error when an acknowledged batch was not read back.
pub fn main(env: Env) -> io::Result<()> {
    let settings = Settings::from_env()?;
    stop_at_signals()?;
    let kit = Kit::new(env, &settings.folder)?;
    let begin = env.monotonic();
    let syncs_counted = strace_works();
    let mut stage = Stage {
        kit: &kit,
        settings: &settings,
        figures: Figures::default(),
        round: 0,
        missing: 0,
    };
    let mut disk = Disk::default();
    for round in 0..settings.rounds {
        stage.round = round;
        disk.measure(&kit)?;
        let products = if round % 2 == 0 {
            [Product::Ottla, Product::Kafka]
        } else {
            [Product::Kafka, Product::Ottla]
        };
        one_round(&mut stage, products, syncs_counted && round == 0)?;
        let minutes = (env.monotonic() - begin).as_secs_f64() / 60.0;
        println!(
            "round {} of {} done after {minutes:.1} minutes",
            round + 1,
            settings.rounds
        );
    }
    let minutes = (env.monotonic() - begin).as_secs_f64() / 60.0;
    let facts = Facts {
        conditions: conditions(&kit, &settings, minutes, syncs_counted)?,
        disk: disk.rows(),
    };
    let tables = report::markdown(&stage.figures, &facts);
    println!("\n{tables}");
    let missing = stage.missing;
    drop(stage);
    std::fs::remove_dir_all(kit.folder())?;
    if let Some(path) = &settings.write {
        let document = std::fs::read_to_string(path)?;
        std::fs::write(path, report::put_between_markers(&document, &tables)?)?;
        println!("written to {}", path.display());
    }
    if missing > 0 {
        return Err(failed(format!(
            "{missing} acknowledged batches were not read back"
        )));
    }
    Ok(())
}

/// Ctrl-C and SIGTERM end the broker that runs, then this process.
fn stop_at_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        broker::kill_running();
        eprintln!("load: stopped");
        std::process::exit(130);
    });
    Ok(())
}

fn one_round(stage: &mut Stage<'_>, products: [Product; 2], count_syncs: bool) -> io::Result<()> {
    let wants = |case: &str| stage.settings.wants(case);
    let producing: Vec<_> = PRODUCING.iter().filter(|each| wants(each.case)).collect();
    let counted: Vec<_> = producing.iter().filter(|_| count_syncs).collect();
    let [start, connections, partitions, latency, beside, consume] = [
        "start",
        "connections",
        "partitions",
        "latency",
        "beside",
        "consume",
    ]
    .map(wants);
    for product in products {
        if start {
            stage.start(product)?;
        }
        if connections {
            stage.connections(product)?;
        }
        if partitions {
            stage.partitions(product)?;
        }
    }
    for each in &producing {
        for flush in [Flush::Fsynced, Flush::Relaxed] {
            for product in products {
                stage.produce(each, product, flush)?;
            }
        }
    }
    if latency {
        for flush in [Flush::Fsynced, Flush::Relaxed] {
            for product in products {
                stage.latency(product, flush)?;
            }
        }
    }
    if beside {
        for product in products {
            stage.beside(product)?;
        }
    }
    if consume {
        for product in products {
            stage.consume(product)?;
        }
    }
    for each in counted {
        for product in products {
            stage.syncs(each, product)?;
        }
    }
    Ok(())
}

fn conditions(
    kit: &Kit,
    settings: &Settings,
    minutes: f64,
    syncs_counted: bool,
) -> io::Result<Vec<String>> {
    let mut conditions = vec![
        format!(
            "Ottla {} against Apache Kafka {} on Java {}.",
            env!("CARGO_PKG_VERSION"),
            kit.kafka_version()?,
            kit.java_version()
        ),
        format!(
            "{}, shared by the broker and the load.",
            machine::description(kit.folder())
        ),
        format!(
            "Rounds whose medians are shown: {}; {} s per case, broker and round after {} s to warm up, produce cases at most {} GB; \
             {minutes:.0} minutes in all.",
            settings.rounds,
            settings.length.as_secs_f64(),
            settings.warm_up.as_secs_f64(),
            settings.most_bytes as f64 / 1e9,
        ),
    ];
    if !syncs_counted {
        conditions.push("Syncs were not counted: strace is not there or may not trace.".to_owned());
    }
    Ok(conditions)
}

/// What the disk did in all rounds.
#[derive(Default)]
struct Disk {
    direct: Vec<f64>,
    syncs: disk::SyncTimes,
}

impl Disk {
    fn measure(&mut self, kit: &Kit) -> io::Result<()> {
        self.direct
            .extend(disk::direct_write_rate(&kit.env, kit.folder())?);
        self.syncs.measure(&kit.env, kit.folder())?;
        for (name, value) in self.rows() {
            println!("disk: {name}: {value}");
        }
        Ok(())
    }

    fn rows(&mut self) -> Vec<(String, String)> {
        let mut direct = self.direct.clone();
        direct.sort_by(f64::total_cmp);
        let rate = direct
            .get(direct.len() / 2)
            .map_or("–".to_owned(), |rate| number(rate / 1e6));
        let mut rows = vec![(
            "Sequential `O_DIRECT` writes of 1 MiB, one at a time: MB/s".to_owned(),
            rate,
        )];
        for (name, times) in [
            ("4 KiB appended", &mut self.syncs.small_appended),
            ("4 KiB overwritten", &mut self.syncs.small_overwritten),
            ("1 MiB appended", &mut self.syncs.large_appended),
        ] {
            let [p50, p99, worst] = [0.5, 0.99, 1.0].map(|share| number(times.ms(share)));
            rows.push((
                format!("{name} and fdatasync: p50 / p99 / worst ms"),
                format!("{p50} / {p99} / {worst}"),
            ));
        }
        rows
    }
}

/// Whether syncs can be counted here: strace may be missing, and a container may forbid tracing.
fn strace_works() -> bool {
    std::process::Command::new("strace")
        .args([
            "-f",
            "--seccomp-bpf",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync",
            "true",
        ])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
