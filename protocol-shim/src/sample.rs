//! Random valid request bodies, written from the guard's own layouts (tests only).
//!
//! The layouts are proved by the codec: it must read such a body to its last byte and write the same bytes again.

use fastrand::Rng;

use crate::guard::{Field, Kind, Message};

/// How long random arrays and strings may get.
#[derive(Clone, Copy)]
pub struct Size {
    pub array: usize,
    pub string: usize,
}

/// A valid body of this message in this version.
pub fn body(random: &mut Rng, message: &Message, version: i16, size: Size) -> Vec<u8> {
    let flexible = message.flexible.contains(version);
    let mut writer = Writer {
        random,
        version,
        flexible,
        size,
        bytes: Vec::new(),
    };
    writer.fields(message.fields);
    writer.bytes
}

struct Writer<'a> {
    random: &'a mut Rng,
    version: i16,
    flexible: bool,
    size: Size,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_inline(version)) {
            let nullable = field.nullable.contains(version);
            let null = nullable && self.random.u8(..4) == 0;
            self.value(&field.kind, null, nullable);
        }
        if self.flexible {
            self.tags(fields);
        }
    }

    /// All known tags of the version, in order and never null: the codec leaves default values out.
    fn tags(&mut self, fields: &[Field]) {
        let tagged: Vec<&Field> = fields
            .iter()
            .filter(|field| {
                field
                    .tag
                    .is_some_and(|(_, versions)| versions.contains(self.version))
            })
            .filter(|field| field.versions.contains(self.version))
            .collect();
        self.varint(tagged.len() as u32);
        for field in tagged {
            let (tag, _) = field.tag.expect("filtered by it");
            let outer = std::mem::take(&mut self.bytes);
            self.value(&field.kind, false, field.nullable.contains(self.version));
            let value = std::mem::replace(&mut self.bytes, outer);
            self.varint(tag);
            self.varint(value.len() as u32);
            self.bytes.extend(value);
        }
    }

    fn value(&mut self, kind: &Kind, null: bool, nullable: bool) {
        match kind {
            Kind::Bool => self.bytes.push(self.random.u8(..2)),
            Kind::Int8 => self.fixed(1),
            Kind::Int16 | Kind::Uint16 => self.fixed(2),
            Kind::Int32 | Kind::Uint32 => self.fixed(4),
            Kind::Int64 => self.fixed(8),
            // A NaN would come back with other bits.
            Kind::Float64 => self.bytes.extend(self.random.f64().to_be_bytes()),
            Kind::Uuid => self.fixed(16),
            Kind::String if null => self.length(None, 2),
            Kind::Bytes | Kind::Records | Kind::Array(_) if null => self.length(None, 4),
            Kind::String | Kind::Bytes | Kind::Records => {
                let length = self.random.usize(..=self.size.string);
                self.length(
                    Some(length),
                    if matches!(kind, Kind::String) { 2 } else { 4 },
                );
                for _ in 0..length {
                    let byte = self.random.alphanumeric() as u8;
                    self.bytes.push(byte);
                }
            }
            Kind::Array(element) => {
                let count = self.random.usize(..=self.size.array);
                self.length(Some(count), 4);
                for _ in 0..count {
                    self.value(element, false, false);
                }
            }
            Kind::Struct(_) if null => self.bytes.push(0xff),
            Kind::Struct(fields) => {
                if nullable {
                    self.bytes.push(1);
                }
                self.fields(fields);
            }
        }
    }

    fn fixed(&mut self, count: usize) {
        for _ in 0..count {
            let byte = self.random.u8(..);
            self.bytes.push(byte);
        }
    }

    fn length(&mut self, length: Option<usize>, classic_width: usize) {
        if self.flexible {
            self.varint(length.map_or(0, |length| length as u32 + 1));
        } else if classic_width == 2 {
            self.bytes
                .extend(length.map_or(-1, |length| length as i16).to_be_bytes());
        } else {
            self.bytes
                .extend(length.map_or(-1, |length| length as i32).to_be_bytes());
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
