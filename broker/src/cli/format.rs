//! How `consume` prints a record: a template in kcat's style, or JSON.
//!
//! A template is parsed once, before anything is asked of a broker. Keys and values are bytes: a template prints them
//! as they are, JSON has them as text, or in base64 under another name where they are no text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::failure::{Failure, Result};
use super::when::show_time;

/// A record as a consumer sees it, borrowed from its batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since 1970; -1: none.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values, in order.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Field(u8),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

impl Template {
    /// Reads a template: fields behind `%`, and `\n`, `\t`, `\r`, `\0`, `\\`, `\xHH`.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| {
            Failure::usage(format_args!(
                "--format {text:?}: {what}; fields are %k key, %s value, %h headers, %t topic, %p partition, %o offset, %T timestamp in ms, %K and %S the sizes of key and value, %%"
            ))
        };
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => match bytes.next() {
                    Some(b'%') => plain.push(b'%'),
                    Some(
                        field @ (b'k' | b's' | b'h' | b't' | b'p' | b'o' | b'T' | b'K' | b'S'),
                    ) => {
                        if !plain.is_empty() {
                            pieces.push(Piece::Text(std::mem::take(&mut plain)));
                        }
                        pieces.push(Piece::Field(field));
                    }
                    _ => return Err(bad("% without a field behind it")),
                },
                b'\\' => plain.push(
                    escaped(&mut bytes)
                        .ok_or_else(|| bad("\\ with something unknown behind it"))?,
                ),
                byte => plain.push(byte),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }

    /// Appends a record.
    pub fn write(&self, record: &Record<'_>, to: &mut Vec<u8>) {
        let size =
            |bytes: Option<&[u8]>| bytes.map_or("-1".to_owned(), |bytes| bytes.len().to_string());
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => to.extend_from_slice(text),
                Piece::Field(b'k') => to.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Field(b's') => to.extend_from_slice(record.value.unwrap_or_default()),
                Piece::Field(b'h') => {
                    for (at, (name, value)) in record.headers.iter().enumerate() {
                        if at > 0 {
                            to.push(b',');
                        }
                        to.extend_from_slice(name);
                        to.push(b'=');
                        to.extend_from_slice(value.unwrap_or(b"NULL"));
                    }
                }
                Piece::Field(b't') => to.extend_from_slice(record.topic.as_bytes()),
                Piece::Field(b'p') => to.extend_from_slice(record.partition.to_string().as_bytes()),
                Piece::Field(b'o') => to.extend_from_slice(record.offset.to_string().as_bytes()),
                Piece::Field(b'T') => to.extend_from_slice(record.timestamp.to_string().as_bytes()),
                Piece::Field(b'K') => to.extend_from_slice(size(record.key).as_bytes()),
                Piece::Field(_) => to.extend_from_slice(size(record.value).as_bytes()),
            }
        }
    }
}

/// Separators and templates hold tabs and line ends as `\t` and `\n`.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' {
            escaped(&mut bytes)?
        } else {
            byte
        });
    }
    Some(plain)
}

fn escaped(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    Some(match bytes.next()? {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'0' => 0,
        b'\\' => b'\\',
        b'x' => {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()?
        }
        _ => return None,
    })
}

/// The record as an object that `produce --input json` reads back.
pub fn to_json(record: &Record<'_>) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), record.topic.into());
    object.insert("partition".to_owned(), record.partition.into());
    object.insert("offset".to_owned(), record.offset.into());
    object.insert("timestamp".to_owned(), record.timestamp.into());
    if record.timestamp >= 0 {
        object.insert("time".to_owned(), show_time(record.timestamp).into());
    }
    put_bytes(&mut object, "key", record.key);
    put_bytes(&mut object, "value", record.value);
    let headers = record.headers.iter().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("name".to_owned(), String::from_utf8_lossy(name).into());
        put_bytes(&mut header, "value", *value);
        Value::Object(header)
    });
    object.insert("headers".to_owned(), headers.collect());
    Value::Object(object)
}

fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let (name, value) = match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (name.to_owned(), Value::Null),
        Some((_, Ok(text))) => (name.to_owned(), text.into()),
        Some((bytes, Err(_))) => (format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
    object.insert(name, value);
}

/// The bytes under a name that `put_bytes` may have used. The error says what is wrong with them.
pub fn json_bytes(
    object: &Map<String, Value>,
    name: &str,
) -> std::result::Result<Option<Vec<u8>>, String> {
    let encoded = format!("{name}_base64");
    match (object.get(name), object.get(&encoded)) {
        (None | Some(Value::Null), None | Some(Value::Null)) => Ok(None),
        (Some(Value::String(text)), None) => Ok(Some(text.clone().into_bytes())),
        (None, Some(Value::String(text))) => STANDARD
            .decode(text)
            .map(Some)
            .map_err(|error| format!("{encoded} is no base64: {error}")),
        (Some(Value::Number(number)), None) => Ok(Some(number.to_string().into_bytes())),
        (Some(value @ (Value::Object(_) | Value::Array(_) | Value::Bool(_))), None) => {
            Ok(Some(value.to_string().into_bytes()))
        }
        _ => Err(format!("give either {name} or {encoded}, as text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            topic: "t",
            partition: 2,
            offset: 7,
            timestamp: 1_000,
            key: None,
            value: Some(b"v\xff"),
            headers: vec![(b"a", Some(b"1")), (b"b", None)],
        }
    }

    #[test]
    fn every_field_of_a_template_is_printed() {
        let template = Template::parse(r"%t %p %o %T [%k] %K %s %S %h %% \x41\t\\\n").unwrap();
        let mut printed = Vec::new();
        template.write(&record(), &mut printed);
        assert_eq!(printed, b"t 2 7 1000 [] -1 v\xff 2 a=1,b=NULL % A\t\\\n");
    }

    #[test]
    fn a_wrong_template_is_a_usage_error() {
        for wrong in ["%", "%x", r"\", r"\q", r"\x4", r"\xzz"] {
            assert_eq!(
                Template::parse(wrong).unwrap_err().exit_code(),
                2,
                "{wrong}"
            );
        }
        assert_eq!(unescape(r"\t::").as_deref(), Some(&b"\t::"[..]));
        assert_eq!(unescape(r"a\"), None);
    }

    #[test]
    fn json_holds_any_bytes_and_is_read_back() {
        let Value::Object(object) = to_json(&record()) else {
            panic!("an object")
        };
        assert_eq!(object["offset"], 7);
        assert_eq!(object["time"], "1970-01-01T00:00:01.000Z");
        assert_eq!(object["key"], Value::Null);
        assert!(!object.contains_key("value"));
        assert_eq!(json_bytes(&object, "value"), Ok(Some(b"v\xff".to_vec())));
        assert_eq!(json_bytes(&object, "key"), Ok(None));
        assert_eq!(object["headers"][0]["name"], "a");
        for (text, bytes) in [
            (r#"{"value":{"a":1}}"#, Some(br#"{"a":1}"#.to_vec())),
            (r#"{"value":1.5}"#, Some(b"1.5".to_vec())),
            ("{}", None),
        ] {
            let object: Map<String, Value> = serde_json::from_str(text).unwrap();
            assert_eq!(json_bytes(&object, "value"), Ok(bytes), "{text}");
        }
        for wrong in [
            r#"{"value_base64":"!"}"#,
            r#"{"value":"a","value_base64":"YQ=="}"#,
        ] {
            let object: Map<String, Value> = serde_json::from_str(wrong).unwrap();
            assert!(json_bytes(&object, "value").is_err(), "{wrong}");
        }
    }
}
