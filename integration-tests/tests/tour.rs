//! The README's tour, walked through: every command runs as it stands there, and every line it prints is compared
//! with the line that is shown.
//!
//! The tour's blocks hold commands behind `$ ` with their output below. `make run` runs in the first terminal and
//! goes on; all other commands run one after the other in the second, under a pseudo-terminal, because programs
//! print in another order without one. A block without a command is what the first terminal printed meanwhile.
//!
//! Two things are not as at a reader's desk. `make` is a stand-in on the `PATH` that starts the binary of this
//! build, because the build is the caller's work and its output differs. And all runs in network and process
//! namespaces of their own, so that the default ports are free and `pkill -9 ottla` kills the tour's broker only.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use ottla_integration_tests::namespace::bash_apart;
use ottla_integration_tests::{TempDir, binaries, repository};

#[test]
fn the_readmes_tour_prints_what_it_shows() {
    let readme = repository().join("README.md");
    let readme = fs::read_to_string(&readme).expect("the README is there");
    let steps = steps(&readme);
    let commands = steps.iter().filter(|step| step.command.is_some()).count();
    assert!(commands >= 8, "only {commands} commands were found");

    let folder = TempDir::new("tour");
    let make = folder.path().join("bin/make");
    fs::create_dir(folder.path().join("bin")).expect("a folder in the test's folder");
    fs::write(&make, MAKE).expect("a file in the test's folder");
    fs::set_permissions(&make, Permissions::from_mode(0o755)).expect("its owner may");
    let work = folder.path().join("work");
    fs::create_dir(&work).expect("a folder in the test's folder");

    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{path}", folder.path().join("bin").display());
    let run = bash_apart(&script(&steps)).folder(&work).env("PATH", path);
    let output = run
        .env("OTTLA", binaries().join("ottla"))
        .env("NO_COLOR", "1")
        .env("TERM", "dumb")
        .succeed();
    assert_eq!(output.stderr, "");

    let printed: Vec<&str> = output.stdout.split(MARK).skip(1).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{}", output.stdout);
    let mut seen = Seen::default();
    for (step, printed) in steps.iter().zip(&printed) {
        let what = step.command.as_deref().unwrap_or("the first terminal");
        let printed: Vec<&str> = printed.lines().skip(1).collect();
        assert!(
            printed.len() == step.shown.len()
                && (printed.iter().zip(&step.shown))
                    .all(|(printed, shown)| seen.same(shown, printed)),
            "`{what}` printed\n{}\nand the README shows\n{}",
            printed.join("\n"),
            step.shown.join("\n")
        );
    }
    let end: Vec<&str> = printed[steps.len()].lines().skip(1).collect();
    let stopped = |line: &str, text| line.contains(" INFO ") && line.ends_with(text);
    assert!(
        end.len() == 2 && stopped(end[0], "stopping") && stopped(end[1], "stopped cleanly"),
        "the first terminal went on with\n{}",
        end.join("\n")
    );
}

/// The stand-in for make: knows `make run` only.
const MAKE: &str = r#"#!/bin/bash
[[ $* == run ]] || { echo "make: this stand-in has no $*"; exit 2; }
exec "$OTTLA" serve
"#;

/// Stands before the output of each step; no program prints it.
const MARK: char = '\u{1e}';

/// A command and what it prints, or what the first terminal prints meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: Option<String>,
    shown: Vec<String>,
}

impl Step {
    fn is_first_terminal(&self) -> bool {
        self.command
            .as_ref()
            .is_none_or(|command| command == "make run")
    }
}

/// The steps in the README's section "A tour".
fn steps(readme: &str) -> Vec<Step> {
    let (_, tour) = readme
        .split_once("\n## A tour\n")
        .expect("a section \"A tour\"");
    let tour = tour.split("\n## ").next().unwrap_or(tour);
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in tour.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            inside = false;
            continue;
        };
        let command = line.strip_prefix("$ ").map(str::to_owned);
        let begins = command.is_some() || !inside;
        inside = true;
        let shown = if command.is_some() {
            None
        } else {
            Some(line.to_owned())
        };
        match steps.last_mut().filter(|_| !begins) {
            Some(step) => step.shown.extend(shown),
            None => steps.push(Step {
                command,
                shown: shown.into_iter().collect(),
            }),
        }
    }
    steps
}

/// Runs the steps, a mark before the output of each, and last what else the first terminal prints when the broker
/// is stopped. A step of the first terminal waits for as many lines as are shown.
fn script(steps: &[Step]) -> String {
    let mut script = String::from(
        r#"
        read_first() {
            local line
            for ((i = 0; i < $1; i++)); do
                IFS= read -r -t 20 line <&3 || break
                printf '%s\n' "$line"
            done
        }
        exec 3</dev/null
        "#,
    );
    for step in steps {
        writeln!(script, "printf '{MARK}\\n'").expect("text grows");
        if let Some(command) = &step.command {
            if step.is_first_terminal() {
                // What an earlier broker printed and nobody showed.
                writeln!(script, "cat <&3\nexec 3< <({command} 2>&1)").expect("text grows");
            } else {
                let quoted = command.replace('\'', r"'\''");
                writeln!(
                    script,
                    "script -qec '{quoted}' /dev/null </dev/null | tr -d '\\r'\n[[ ${{PIPESTATUS[0]}} == 0 ]]"
                )
                .expect("text grows");
            }
        }
        if step.is_first_terminal() {
            writeln!(script, "read_first {}", step.shown.len()).expect("text grows");
        }
    }
    writeln!(script, "printf '{MARK}\\n'\npkill -TERM ottla\ncat <&3").expect("text grows");
    script
}

/// Tells whether a line is the one shown, and remembers which real cluster id a shown one stands for.
#[derive(Default)]
struct Seen {
    cluster_ids: HashMap<String, String>,
}

impl Seen {
    fn same(&mut self, shown: &str, printed: &str) -> bool {
        let (shown, printed): (Vec<&str>, Vec<&str>) =
            (shown.split(' ').collect(), printed.split(' ').collect());
        shown.len() == printed.len()
            && (0..shown.len()).all(|at| {
                let before = at.checked_sub(1).map_or("", |before| shown[before]);
                self.same_word(before, shown[at], printed[at])
            })
    }

    /// Words are equal but for three kinds: timestamps, the version behind "Ottla", the id behind "cluster".
    fn same_word(&mut self, before: &str, shown: &str, printed: &str) -> bool {
        if before == "cluster" && is_cluster_id(shown) && is_cluster_id(printed) {
            let known = self.cluster_ids.entry(shown.to_owned());
            return known.or_insert_with(|| printed.to_owned()) == printed;
        }
        shown == printed
            || is_timestamp(shown) && is_timestamp(printed)
            || before == "Ottla" && is_version(shown) && is_version(printed)
    }
}

fn is_timestamp(word: &str) -> bool {
    has_shape(word, "0000-00-00T00:00:00.000000Z")
}

/// 22 characters of URL-safe base64 and a comma.
fn is_cluster_id(word: &str) -> bool {
    word.strip_suffix(',').is_some_and(|id| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        id.len() == 22 && id.chars().all(known)
    })
}

fn is_version(word: &str) -> bool {
    let numbers: Vec<&str> = word.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

/// Digits where the shape has a 0, and the shape's own characters elsewhere.
fn has_shape(word: &str, shape: &str) -> bool {
    let fits = |(c, wanted): (char, char)| {
        if wanted == '0' {
            c.is_ascii_digit()
        } else {
            c == wanted
        }
    };
    word.len() == shape.len() && word.chars().zip(shape.chars()).all(fits)
}

/// The checks themselves: one that finds nothing would let everything pass.
mod checks {
    use super::*;

    #[test]
    fn blocks_are_cut_into_commands_and_output() {
        let readme = "# T\n\n    $ not this\n\n## A tour\n\nText:\n\n    $ make run\n    one\n      two\n    $ ls | wc\n\nMore:\n\n    three\n\n## Next\n\n    $ nor this\n";
        let step = |command: Option<&str>, shown: &[&str]| Step {
            command: command.map(str::to_owned),
            shown: shown.iter().map(|line| line.to_string()).collect(),
        };
        assert_eq!(
            steps(readme),
            [
                step(Some("make run"), &["one", "  two"]),
                step(Some("ls | wc"), &[]),
                step(None, &["three"]),
            ]
        );
    }

    #[test]
    fn only_what_varies_may_differ() {
        let mut seen = Seen::default();
        let banner =
            |version: &str, id: &str| format!("Ottla {version} serves, cluster {id}, node 1");
        let (shown, real, other) = (
            "uQEkeXw7TFa94Tp25Iy5qQ",
            "32NiMFIUS1-U3NdaBKEAhw",
            "fHOdos_MSMq_QCngrh6cRg",
        );
        assert!(seen.same(&banner("0.1.0", shown), &banner("0.2.0", real)));
        assert!(seen.same(&banner("0.1.0", shown), &banner("0.1.0", real)));
        assert!(
            !seen.same(&banner("0.1.0", shown), &banner("0.1.0", other)),
            "another cluster"
        );
        assert!(!seen.same(&banner("0.1.0", shown), &banner("one", real)));
        let line = |time: &str, rest: &str| format!("{time}  INFO {rest}");
        let (early, late) = ("2026-11-21T06:36:45.500609Z", "2027-01-02T03:04:05.678901Z");
        assert!(seen.same(&line(early, "a 1"), &line(late, "a 1")));
        assert!(!seen.same(&line(early, "a 1"), &line(late, "a 2")));
        assert!(!seen.same(&line(early, "a"), &line("now", "a")));
        assert!(!seen.same("a  b", "a b"));
    }
}
