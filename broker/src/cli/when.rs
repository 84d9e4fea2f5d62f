//! Places in a partition as people write them: `earliest`, `42`, `-10`, `2026-11-21T06:36:45Z`, `@1700000000000`, `-1h`.
//!
//! Used by `consume --from` and `group reset --to`. Pure: the present is an argument. A plain number is an offset and
//! never a time, because a guess would read from the wrong place one day; a time in milliseconds has an `@`.

use super::client::At;
use super::failure::{Failure, Result};

/// A place, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// One that the broker finds.
    At(At),
    /// This offset.
    Offset(i64),
    /// So many records before the end.
    BeforeEnd(i64),
}

impl When {
    /// Reads what stands behind an option.
    pub fn parse(text: &str, now_ms: i64) -> Result<Self> {
        parse(text, now_ms).ok_or_else(|| {
            Failure::usage(format_args!(
                "{text:?} is no place in a partition: write earliest, latest, an offset (42), so many before the end (-10), a time (2026-11-21T06:36:45Z or @EPOCH_MILLISECONDS) or an age (-90s, -15m, -1h, -2d)"
            ))
        })
    }
}

fn parse(text: &str, now_ms: i64) -> Option<When> {
    match text {
        "earliest" | "beginning" => return Some(When::At(At::Earliest)),
        "latest" | "end" => return Some(When::At(At::Latest)),
        _ => {}
    }
    if let Ok(offset) = text.parse::<i64>() {
        return Some(if text.starts_with('-') {
            When::BeforeEnd(offset.checked_neg()?)
        } else {
            When::Offset(offset)
        });
    }
    if let Some(ms) = text.strip_prefix('@') {
        let ms = ms.parse().ok().filter(|ms| *ms >= 0)?;
        return Some(When::At(At::Time(ms)));
    }
    if let Some(age) = text.strip_prefix('-') {
        let age = duration_ms(age)?;
        return Some(When::At(At::Time(now_ms.checked_sub(age)?.max(0))));
    }
    Some(When::At(At::Time(parse_time(text)?.max(0))))
}

/// `90s`, `15m`, `1h`, `2d`, `500ms`.
fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}

/// RFC 3339, or a date alone for its first moment in UTC. Milliseconds since 1970.
pub fn parse_time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut fields = date.split('-');
    let year: i64 = digits(fields.next()?, 4)?;
    let month = digits(fields.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = digits(fields.next()?, 2)?;
    if fields.next().is_some() || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    let midnight = days_since_1970(year, month, day) * 86_400_000;
    if rest.is_empty() {
        return Some(midnight);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let milliseconds: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let mut fields = time.split(':');
    let hour = digits(fields.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(fields.next()?, 2).filter(|minute| *minute < 60)?;
    let second = digits(fields.next()?, 2).filter(|second| *second <= 60)?;
    if fields.next().is_some() {
        return None;
    }
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        (sign, zone) => {
            let (hours, minutes) = zone.split_once(':')?;
            let hours = digits(hours, 2).filter(|hours| *hours < 24)?;
            let minutes = digits(minutes, 2).filter(|minutes| *minutes < 60)?;
            let ahead = (hours * 60 + minutes) * 60_000;
            if sign == "-" { -ahead } else { ahead }
        }
    };
    Some(midnight + ((hour * 60 + minute) * 60 + second) * 1_000 + milliseconds - offset)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the Gregorian calendar from 1970-01-01 to this date.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let years = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day - 1
}

/// `2026-11-21T06:36:45.500Z`; what is no time is printed as a number.
pub fn show_time(ms: i64) -> String {
    let day = ms.div_euclid(86_400_000);
    let of_day = ms.rem_euclid(86_400_000);
    // A first guess that is never late; at most a year or two too early.
    let mut year = 1970 + day.div_euclid(366);
    if ms < 0 || year > 9_999 {
        return ms.to_string();
    }
    while days_since_1970(year + 1, 1, 1) <= day {
        year += 1;
    }
    let mut rest = day - days_since_1970(year, 1, 1);
    let mut month = 1;
    while rest >= days_in(year, month) {
        rest -= days_in(year, month);
        month += 1;
    }
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milliseconds) = (of_day / 1_000 % 60, of_day % 1_000);
    let day = rest + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn each_way_to_name_a_place_is_understood() {
        let time = |ms| Some(When::At(At::Time(ms)));
        for (text, place) in [
            ("earliest", Some(When::At(At::Earliest))),
            ("latest", Some(When::At(At::Latest))),
            ("42", Some(When::Offset(42))),
            ("1700000000000", Some(When::Offset(1_700_000_000_000))),
            ("-10", Some(When::BeforeEnd(10))),
            ("@1700000000000", time(NOW)),
            ("-1h", time(NOW - 3_600_000)),
            ("-90s", time(NOW - 90_000)),
            ("-2d", time(NOW - 172_800_000)),
            ("-1500ms", time(NOW - 1_500)),
            ("1970-01-01", time(0)),
            ("2023-11-14T22:13:20Z", time(NOW)),
            ("2023-11-14T22:13:20.5Z", time(NOW + 500)),
            ("2023-11-15T00:13:20.123456+02:00", time(NOW + 123)),
            ("2023-11-14 17:13:20-05:00", time(NOW)),
        ] {
            assert_eq!(parse(text, NOW), place, "{text}");
        }
        for wrong in [
            "",
            "now",
            "1h",
            "-1y",
            "-h",
            "@",
            "@-1",
            "2023-02-29",
            "2023-13-01",
            "2023-1-1",
            "2023-11-14T22:13:20",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13Z",
            "-9223372036854775808",
            "2023-11-14T22:13:20+2:00",
            "-99999999999999999d",
            "2023-11-14é",
        ] {
            assert_eq!(parse(wrong, NOW), None, "{wrong}");
        }
        let failure = When::parse("soon", NOW).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(failure.to_string().contains("\"soon\""));
    }

    #[test]
    fn a_shown_time_is_read_back_for_thousands_of_moments() {
        let seed = 0x0071_6d65;
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        assert_eq!(show_time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(show_time(-1), "-1");
        assert_eq!(show_time(i64::MAX), i64::MAX.to_string());
        // Up to the last moment of the year 9999.
        for _ in 0..20_000 {
            let ms = random.i64(0..253_402_300_800_000);
            assert_eq!(parse_time(&show_time(ms)), Some(ms), "{ms}");
        }
    }
}
