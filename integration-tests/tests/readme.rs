//! The README's sections "Command line" and "Examples", run as they stand there: every line that a command prints is
//! the line that is shown.
//!
//! The commands of a section run one after the other in the repository's folder, with the `ottla` of this build on the
//! `PATH`. Those of the command line have one broker; an example starts its own. The tour has a test of its own.

use std::fs;
use std::time::Duration;

use ottla_integration_tests::{Broker, Run, TempDir, binaries, repository};

/// A command and the lines shown below it.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    shown: Vec<String>,
}

/// The commands of a section, with what they print.
fn steps(readme: &str, section: &str) -> Vec<Step> {
    let (_, rest) = readme
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("a section {section:?}"));
    let mut steps: Vec<Step> = Vec::new();
    for line in rest.split("\n## ").next().unwrap_or(rest).lines() {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                shown: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.shown.push(line.to_owned());
        } else {
            panic!("{line:?} stands below no command");
        }
    }
    steps
}

/// Runs every command and compares.
fn walk(section: &str, at_least: usize, bootstrap: &str) {
    let readme = fs::read_to_string(repository().join("README.md")).expect("the README is there");
    let steps = steps(&readme, section);
    assert!(steps.len() >= at_least, "only {} commands", steps.len());
    let path = std::env::var("PATH").expect("a PATH");
    for step in steps {
        // A terminal shows both streams.
        let both = format!("set -o pipefail\n{{ {}\n}} 2>&1", step.command);
        let output = Run::new("bash")
            .args(["-c", &both])
            .folder(&repository())
            .env("PATH", format!("{}:{path}", binaries().display()))
            .env("OTTLA", binaries().join("ottla"))
            .env("OTTLA_BOOTSTRAP", bootstrap)
            .timeout(Duration::from_secs(120))
            .finish();
        assert!(
            output.status.success() && output.lines() == step.shown,
            "`{}` ended with {} and printed\n{}\nand the README shows\n{}",
            step.command,
            output.status,
            output.stdout,
            step.shown.join("\n")
        );
    }
}

#[test]
fn the_command_line_prints_what_the_readme_shows() {
    let folder = TempDir::new("readme");
    let broker = Broker::start(folder.path(), &[]);
    walk("Command line", 10, &broker.bootstrap());
}

#[test]
fn each_example_prints_what_the_readme_shows() {
    // Nobody listens there: an example that does not start its own broker fails.
    walk("Examples", 3, "127.0.0.1:1");
}

#[test]
fn commands_are_told_from_what_they_print() {
    let readme = "\n## A\n\n    $ no\n\n## B\n\nText:\n\n    $ one | two\n    out\n      indented\n\n    $ three\n\n## C\n\n    $ no\n";
    let step = |command: &str, shown: &[&str]| Step {
        command: command.to_owned(),
        shown: shown.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        steps(readme, "B"),
        [
            step("one | two", &["out", "  indented"]),
            step("three", &[])
        ]
    );
}
