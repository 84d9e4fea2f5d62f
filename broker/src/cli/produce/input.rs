//! Input of `ottla produce`: lines of standard input or files, each made into a record.
//!
//! Lines are read on a thread of their own and handed over through a bounded queue; a thread whose reader is gone ends.
//! What a line becomes is pure.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{Input, ProduceArgs};
use crate::cli::failure::{Failure, Result};
use crate::cli::format::{json_bytes, unescape};
use crate::cli::output::size;

/// Lines that the reader may be ahead.
const LINES_AHEAD: usize = 10_000;
/// A longer line is an error, not a reason to fill the memory.
const LINE_MAX: u64 = 64 * 1024 * 1024;

/// A record on its way.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp: Option<i64>,
}

impl Message {
    pub(super) fn len(&self) -> usize {
        let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + size(value));
        size(&self.key) + size(&self.value) + headers.sum::<usize>()
    }
}

/// What every line is made into.
pub(super) struct Shape {
    input: Input,
    separator: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    partition: Option<i32>,
    empty_is_null: bool,
}

impl Shape {
    pub(super) fn of(args: &ProduceArgs) -> Result<Self> {
        let separator = match &args.key_separator {
            None => None,
            Some(text) => {
                let separator = unescape(text).filter(|separator| !separator.is_empty());
                Some(separator.ok_or_else(|| {
                    Failure::usage(format_args!(
                        "--key-separator {text:?} is empty or ends in a \\"
                    ))
                })?)
            }
        };
        let mut headers = Vec::new();
        for header in &args.headers {
            let (name, value) = header.split_once('=').ok_or_else(|| {
                Failure::usage(format_args!("--header {header:?} is not NAME=VALUE"))
            })?;
            headers.push((name.as_bytes().to_vec(), Some(value.as_bytes().to_vec())));
        }
        if args.input == Input::Json && separator.is_some() {
            return Err(Failure::usage(
                "--key-separator is for --input lines: JSON objects name their key",
            ));
        }
        Ok(Self {
            input: args.input,
            separator,
            key: args.key.as_ref().map(|key| key.as_bytes().to_vec()),
            headers,
            partition: args.partition,
            empty_is_null: args.empty_is_null,
        })
    }

    pub(super) fn message(&self, line: Vec<u8>) -> std::result::Result<Message, String> {
        let mut message = match self.input {
            Input::Lines => self.split_line(line),
            Input::Json => from_json(&line)?,
        };
        if message.key.is_none() {
            message.key.clone_from(&self.key);
        }
        if self.empty_is_null {
            message.key = message.key.filter(|key| !key.is_empty());
            message.value = message.value.filter(|value| !value.is_empty());
        }
        message.headers.extend(self.headers.iter().cloned());
        message.partition = self.partition.or(message.partition);
        Ok(message)
    }

    fn split_line(&self, mut line: Vec<u8>) -> Message {
        let mut key = None;
        if let Some(separator) = &self.separator {
            let at = line
                .windows(separator.len())
                .position(|window| window == separator.as_slice());
            if let Some(at) = at {
                let value = line.split_off(at + separator.len());
                line.truncate(at);
                key = Some(std::mem::replace(&mut line, value));
            }
        }
        Message {
            key,
            value: Some(line),
            ..Message::default()
        }
    }
}

fn from_json(line: &[u8]) -> std::result::Result<Message, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("no JSON object: {error}"))?;
    let mut headers = Vec::new();
    match object.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Array(array)) => {
            for header in array {
                let header = header.as_object().ok_or("a header is no object")?;
                let name = header.get("name").and_then(Value::as_str);
                let name = name.ok_or("a header has no name")?.as_bytes().to_vec();
                headers.push((name, json_bytes(header, "value")?));
            }
        }
        Some(_) => return Err("headers is no array of objects with name and value".to_owned()),
    }
    let number = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("{name} is no whole number")),
    };
    let partition = number("partition")?
        .map(|partition| i32::try_from(partition).map_err(|_| "partition is too large".to_owned()))
        .transpose()?;
    Ok(Message {
        key: json_bytes(&object, "key")?,
        value: json_bytes(&object, "value")?,
        headers,
        partition,
        timestamp: number("timestamp")?.filter(|timestamp| *timestamp >= 0),
    })
}

/// Lines, until all files or standard input have ended.
pub(super) fn read_lines(files: Vec<PathBuf>) -> mpsc::Receiver<Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    tokio::task::spawn_blocking(move || {
        if files.is_empty() {
            send_lines(std::io::stdin().lock(), "standard input", &sender);
        }
        for path in files {
            let name = path.display().to_string();
            match File::open(&path) {
                Ok(file) => send_lines(BufReader::with_capacity(256 * 1024, file), &name, &sender),
                Err(error) => {
                    let failure = Failure::usage(format_args!("cannot read {name}: {error}"));
                    let _ = sender.blocking_send(Err(failure));
                }
            }
        }
    });
    receiver
}

/// Stops when nobody listens any more.
fn send_lines(mut from: impl BufRead, name: &str, sender: &mpsc::Sender<Result<Vec<u8>>>) {
    loop {
        let mut line = Vec::new();
        let outcome = match from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(read) if read as u64 == LINE_MAX && !line.ends_with(b"\n") => Err(Failure::usage(
                format_args!("{name}: a line is longer than {}", size(LINE_MAX)),
            )),
            Ok(_) => {
                if line.ends_with(b"\n") {
                    line.pop();
                }
                Ok(line)
            }
            Err(error) => Err(Failure::usage(format_args!("cannot read {name}: {error}"))),
        };
        let failed = outcome.is_err();
        if sender.blocking_send(outcome).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            input: Input::Lines,
            separator: Some(b"::".to_vec()),
            key: None,
            headers: vec![(b"h".to_vec(), Some(b"1".to_vec()))],
            partition: None,
            empty_is_null: false,
        }
    }

    #[test]
    fn a_line_is_cut_at_the_first_separator() {
        let of = |shape: &Shape, line: &[u8]| {
            let message = shape.message(line.to_vec()).unwrap();
            (message.key, message.value)
        };
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        let mut shape = shape();
        assert_eq!(of(&shape, b"k::v::w"), (bytes("k"), bytes("v::w")));
        assert_eq!(of(&shape, b"value"), (None, bytes("value")));
        assert_eq!(of(&shape, b"::"), (bytes(""), bytes("")));
        shape.empty_is_null = true;
        assert_eq!(of(&shape, b"k::"), (bytes("k"), None));
        shape.key = bytes("all");
        shape.separator = None;
        assert_eq!(of(&shape, b"v"), (bytes("all"), bytes("v")));
    }

    #[test]
    fn json_lines_say_everything_themselves() {
        let shape = Shape {
            input: Input::Json,
            separator: None,
            ..shape()
        };
        let line = br#"{"key":"k","value":null,"partition":3,"timestamp":5,"headers":[{"name":"a","value":"b"}]}"#;
        let message = shape.message(line.to_vec()).unwrap();
        assert_eq!((message.key, message.value), (Some(b"k".to_vec()), None));
        assert_eq!((message.partition, message.timestamp), (Some(3), Some(5)));
        assert_eq!(message.headers.len(), 2);
        for wrong in [
            "",
            "3",
            "[]",
            "{\"partition\":\"x\"}",
            "{\"partition\":5000000000}",
            "{\"headers\":{}}",
            "{\"headers\":[{\"value\":\"x\"}]}",
        ] {
            assert!(shape.message(wrong.as_bytes().to_vec()).is_err(), "{wrong}");
        }
    }
}
