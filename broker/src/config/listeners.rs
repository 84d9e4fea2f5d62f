//! Listeners: from `listeners`, `advertised.listeners` and `listener.security.protocol.map` to typed
//! addresses. Called by the loader; pure but for the machine's name, which the caller supplies.
//!
//! Invariants: there is at least one listener; names are unique and in upper case; each listener has
//! exactly one advertised address, in the same order; an advertised host is never empty and never a
//! meta-address. Port 0 stands for the port that the listener will take.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Values;
use super::value::split_list;

/// How a listener's connections are protected (Kafka's `SecurityProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL without encryption.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl SecurityProtocol {
    fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "PLAINTEXT" => Some(Self::Plaintext),
            "SSL" => Some(Self::Ssl),
            "SASL_PLAINTEXT" => Some(Self::SaslPlaintext),
            "SASL_SSL" => Some(Self::SaslSsl),
            _ => None,
        }
    }

    /// Its name in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

/// An address to listen on, or the one that clients of that listener are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name, in upper case.
    pub name: String,
    /// How its connections are protected.
    pub protocol: SecurityProtocol,
    /// Host name or address, without brackets; empty means every interface (never when advertised).
    pub host: String,
    /// 0: a free port when listening; the port that was taken when advertised.
    pub port: u16,
}

impl Listener {
    /// Whether it listens on every interface.
    pub fn is_wildcard(&self) -> bool {
        self.host.is_empty() || is_meta_address(&self.host)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name, host, port, ..
        } = self;
        if host.contains(':') {
            write!(f, "{name}://[{host}]:{port}")
        } else {
            write!(f, "{name}://{host}:{port}")
        }
    }
}

/// What the broker opens and what it tells clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// To be opened.
    pub listeners: Vec<Listener>,
    /// For clients, one per listener in the same order.
    pub advertised: Vec<Listener>,
    /// Listeners of controllers, which are not opened.
    pub controllers: Vec<String>,
}

/// A refused listener property: its name, and what is wrong with the way out.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    /// The property at fault.
    pub name: &'static str,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

/// Reads the listener properties. `hostname` is asked for where clients need a name for this machine.
pub fn resolve(values: &Values, hostname: impl Fn() -> String) -> Result<Listeners, Refused> {
    let controllers: Vec<String> = split_list(values.text("controller.listener.names"))
        .map(str::to_ascii_uppercase)
        .collect();
    let protocols = protocol_map(values)?;
    let mut all = Vec::new();
    for text in split_list(values.text("listeners")) {
        all.push(parse("listeners", text)?);
    }
    unique_names("listeners", &all)?;

    let (skipped, opened): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|listener| controllers.contains(&listener.name));
    if opened.is_empty() {
        return Err(refused(
            "listeners",
            "at least one listener is needed that is not a controller's",
        ));
    }
    distinct_ports(&opened)?;
    let mut listeners = Vec::new();
    for listener in opened {
        listeners.push(Listener {
            protocol: protocol_of(&listener.name, &protocols)?,
            ..listener
        });
    }
    let advertised = advertised(values, &listeners, &controllers, hostname)?;
    let controllers = skipped.into_iter().map(|listener| listener.name).collect();
    Ok(Listeners {
        listeners,
        advertised,
        controllers,
    })
}

fn advertised(
    values: &Values,
    listeners: &[Listener],
    controllers: &[String],
    hostname: impl Fn() -> String,
) -> Result<Vec<Listener>, Refused> {
    const NAME: &str = "advertised.listeners";
    let mut named = Vec::new();
    for text in split_list(values.set(NAME).unwrap_or_default()) {
        let listener = parse(NAME, text)?;
        // A stock file of Kafka's advertises its controller too.
        if !controllers.contains(&listener.name) {
            named.push(listener);
        }
    }
    unique_names(NAME, &named)?;
    if let Some(stranger) = named
        .iter()
        .find(|named| listeners.iter().all(|own| own.name != named.name))
    {
        return Err(refused(
            NAME,
            format!("{} is not among the names in listeners", stranger.name),
        ));
    }
    let address_of = |own: &Listener| {
        let told = named
            .iter()
            .find(|named| named.name == own.name)
            .unwrap_or(own);
        if is_meta_address(&told.host) {
            return Err(refused(
                NAME,
                format!(
                    "clients cannot connect to {host}; set {NAME}={name}://<a host name they can reach>:{port}",
                    host = told.host,
                    name = told.name,
                    port = told.port,
                ),
            ));
        }
        // Kafka, too, gives the machine's name where no host was given.
        let host = if told.host.is_empty() {
            hostname()
        } else {
            told.host.clone()
        };
        Ok(Listener {
            host,
            port: told.port,
            ..own.clone()
        })
    };
    listeners.iter().map(address_of).collect()
}

fn protocol_map(values: &Values) -> Result<Vec<(String, SecurityProtocol)>, Refused> {
    const NAME: &str = "listener.security.protocol.map";
    let mut map: Vec<(String, SecurityProtocol)> = Vec::new();
    for entry in split_list(values.text(NAME)) {
        let parsed = entry.split_once(':').and_then(|(name, protocol)| {
            Some((
                name.trim().to_ascii_uppercase(),
                SecurityProtocol::parse(protocol.trim())?,
            ))
        });
        let Some((name, protocol)) = parsed else {
            return Err(refused(
                NAME,
                format!(
                    "{entry:?} must be NAME:PROTOCOL, the protocol one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
                ),
            ));
        };
        if map.iter().any(|(earlier, _)| *earlier == name) {
            return Err(refused(NAME, format!("{name} has two protocols")));
        }
        map.push((name, protocol));
    }
    Ok(map)
}

fn protocol_of(
    name: &str,
    map: &[(String, SecurityProtocol)],
) -> Result<SecurityProtocol, Refused> {
    match map
        .iter()
        .find(|(mapped, _)| mapped == name)
        .map(|(_, protocol)| *protocol)
    {
        Some(SecurityProtocol::Plaintext) => Ok(SecurityProtocol::Plaintext),
        Some(protocol) => Err(refused(
            "listeners",
            format!(
                "{name} asks for {}, which is not served yet; only PLAINTEXT is",
                protocol.name()
            ),
        )),
        None => Err(refused(
            "listeners",
            format!(
                "{name} has no security protocol; add {name}:PLAINTEXT to listener.security.protocol.map"
            ),
        )),
    }
}

/// Reads `NAME://host:port`; the protocol is filled in later.
fn parse(property: &'static str, text: &str) -> Result<Listener, Refused> {
    let malformed = || {
        refused(
            property,
            format!("{text:?} must be NAME://host:port, such as PLAINTEXT://127.0.0.1:9092"),
        )
    };
    let (name, address) = text.split_once("://").ok_or_else(malformed)?;
    let (host, port) = split_address(address).ok_or_else(malformed)?;
    let name_is_good = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if !name_is_good {
        return Err(malformed());
    }
    Ok(Listener {
        name: name.to_ascii_uppercase(),
        protocol: SecurityProtocol::Plaintext,
        host: host.to_owned(),
        port,
    })
}

/// Splits `host:port`, where the host may be empty or an IPv6 address in brackets.
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(inner) => inner.contains(':'),
        None => !host.contains([':', '[', ']']),
    };
    let host = bracketed.unwrap_or(host);
    let characters_are_good = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-%._:".contains(&byte));
    let port_is_good = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if host_is_good && characters_are_good && port_is_good {
        Some((host, port.parse().ok()?))
    } else {
        None
    }
}

fn unique_names(property: &'static str, listeners: &[Listener]) -> Result<(), Refused> {
    for (index, listener) in listeners.iter().enumerate() {
        if listeners[..index]
            .iter()
            .any(|earlier| earlier.name == listener.name)
        {
            return Err(refused(
                property,
                format!(
                    "{} is named twice; give each listener its own name",
                    listener.name
                ),
            ));
        }
    }
    Ok(())
}

/// Two listeners cannot share a port, unless one is on IPv4 and the other on IPv6 (Kafka's rule).
fn distinct_ports(listeners: &[Listener]) -> Result<(), Refused> {
    let families_differ = |a: &Listener, b: &Listener| {
        let v4 = |listener: &Listener| listener.host.parse::<Ipv4Addr>().is_ok();
        let v6 = |listener: &Listener| listener.host.parse::<Ipv6Addr>().is_ok();
        (v4(a) && v6(b)) || (v6(a) && v4(b))
    };
    for (index, listener) in listeners.iter().enumerate() {
        let taken = |earlier: &&Listener| {
            listener.port != 0
                && earlier.port == listener.port
                && !families_differ(earlier, listener)
        };
        if let Some(earlier) = listeners[..index].iter().find(taken) {
            let problem = format!(
                "{} and {} have the same port {}",
                earlier.name, listener.name, listener.port
            );
            return Err(refused("listeners", problem));
        }
    }
    Ok(())
}

fn is_meta_address(host: &str) -> bool {
    host == "0.0.0.0"
        || host
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.is_unspecified())
}

fn refused(name: &'static str, problem: impl Into<String>) -> Refused {
    Refused {
        name,
        problem: problem.into(),
    }
}

#[cfg(test)]
#[path = "listeners_tests.rs"]
mod tests;
