//! What the person who runs the comparison can choose, from environment variables.

use std::path::PathBuf;
use std::time::Duration;

use crate::load::failed;

/// The choices.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `OTTLA_BENCH_SECONDS`: measured per case, broker and round.
    pub length: Duration,
    /// `OTTLA_BENCH_WARM_UP`: seconds of load before that; a JVM compiles what it runs often meanwhile.
    pub warm_up: Duration,
    /// `OTTLA_BENCH_GB`: a produce case ends earlier when so much was acknowledged.
    pub most_bytes: u64,
    /// `OTTLA_BENCH_ROUNDS`.
    pub rounds: u32,
    /// `OTTLA_BENCH_CASES`: words, separated by spaces or commas; a case runs when its name holds one of them.
    pub words: Vec<String>,
    /// `OTTLA_BENCH_DIR`: where the data goes.
    pub folder: PathBuf,
    /// `OTTLA_BENCH_WRITE`: the file that gets the tables between its markers; without it they are printed only.
    pub write: Option<PathBuf>,
}

impl Settings {
    /// Reads them.
    pub fn from_env() -> std::io::Result<Settings> {
        let text = |name: &str, default: &str| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.is_empty())
                .unwrap_or_else(|| default.to_owned())
        };
        let number = |name: &str, default: &str| {
            let value = text(name, default);
            match value.parse::<f64>() {
                Ok(number) if number > 0.0 && number < 1e6 => Ok(number),
                _ => Err(failed(format!("{name} is no positive number: {value:?}"))),
            }
        };
        let mut folder = crate::binaries();
        folder.push("bench-data");
        Ok(Settings {
            length: Duration::from_secs_f64(number("OTTLA_BENCH_SECONDS", "8")?),
            warm_up: Duration::from_secs_f64(number("OTTLA_BENCH_WARM_UP", "10")?),
            most_bytes: (number("OTTLA_BENCH_GB", "8")? * 1e9) as u64,
            rounds: number("OTTLA_BENCH_ROUNDS", "2")?.ceil() as u32,
            words: text("OTTLA_BENCH_CASES", "")
                .split([' ', ','])
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
            folder: text("OTTLA_BENCH_DIR", &folder.to_string_lossy()).into(),
            write: std::env::var_os("OTTLA_BENCH_WRITE")
                .filter(|value| !value.is_empty())
                .map(PathBuf::from),
        })
    }

    /// Whether a case is wanted.
    pub fn wants(&self, case: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| case.contains(word.as_str()))
    }
}
