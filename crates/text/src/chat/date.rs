//! Dates as Python's `strftime` writes them, in UTC.

const SECONDS_OF_DAY: u64 = 86_400;
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A second in UTC.
struct Date {
    year: u64,
    /// From 1.
    month: u64,
    /// From 1.
    day: u64,
    /// From 0, 1 January.
    day_of_year: u64,
    /// From 0, Sunday.
    weekday: u64,
    second_of_day: u64,
    unix_seconds: u64,
}

/// What `datetime.datetime.fromtimestamp(unix_seconds, UTC).strftime(format)` gives in the C locale. A directive that
/// is not known stays as it is. `%-d` and its like write no padding, as in glibc.
pub(super) fn strftime(unix_seconds: u64, format: &str) -> String {
    let date = Date::new(unix_seconds);
    let mut text = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text += &rest[..at];
        rest = &rest[at + 1..];
        let unpadded = rest.strip_prefix('-');
        let directive = unpadded.unwrap_or(rest);
        let Some(letter) = directive.chars().next() else {
            text.push('%');
            break;
        };
        match date.field(letter, unpadded.is_none()) {
            Some(field) => {
                text += &field;
                rest = &directive[letter.len_utf8()..];
            }
            None => text.push('%'),
        }
    }
    text + rest
}

impl Date {
    fn new(unix_seconds: u64) -> Self {
        let days = unix_seconds / SECONDS_OF_DAY;
        // Years from March on, so that a leap day ends its year: 400 of them have 146,097 days. The era begins on
        // 1 March 0000, which is 719,468 days before 1970.
        let day_of_era = (days + 719_468) % 146_097;
        let era = (days + 719_468) / 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let to_march = 59 + u64::from(is_leap);
        Self {
            year,
            month,
            day: from_march - (153 * month_from_march + 2) / 5 + 1,
            day_of_year: if month > 2 { from_march + to_march } else { from_march - 306 },
            weekday: (days + 4) % 7,
            second_of_day: unix_seconds % SECONDS_OF_DAY,
            unix_seconds,
        }
    }

    fn field(&self, letter: char, padded: bool) -> Option<String> {
        let number = |value: u64, width: usize| {
            let width = if padded { width } else { 1 };
            Some(format!("{value:0width$}"))
        };
        let spaced = |value: u64| Some(if padded { format!("{value:2}") } else { value.to_string() });
        let (hour, minute, second) = (self.second_of_day / 3600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let hour_of_twelve = (hour + 11) % 12 + 1;
        let name = |names: &[&str], at: u64| names[at as usize].to_owned();
        let write = |format| Some(strftime(self.unix_seconds, format));
        match letter {
            'Y' => number(self.year, 1),
            'C' => number(self.year / 100, 2),
            'y' => number(self.year % 100, 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => spaced(self.day),
            'j' => number(self.day_of_year + 1, 3),
            'H' => number(hour, 2),
            'I' => number(hour_of_twelve, 2),
            'k' => spaced(hour),
            'l' => spaced(hour_of_twelve),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'f' => Some("000000".to_owned()),
            's' => number(self.unix_seconds, 1),
            'p' => Some(if hour < 12 { "AM" } else { "PM" }.to_owned()),
            'A' => Some(name(&DAYS, self.weekday)),
            'a' => Some(name(&DAYS, self.weekday)[..3].to_owned()),
            'B' => Some(name(&MONTHS, self.month - 1)),
            'b' | 'h' => Some(name(&MONTHS, self.month - 1)[..3].to_owned()),
            'u' => number((self.weekday + 6) % 7 + 1, 1),
            'w' => number(self.weekday, 1),
            'U' => number((self.day_of_year + 7 - self.weekday) / 7, 2),
            'W' => number((self.day_of_year + 7 - (self.weekday + 6) % 7) / 7, 2),
            // A naive `datetime` has no zone.
            'Z' | 'z' => Some(String::new()),
            'c' => write("%a %b %e %H:%M:%S %Y"),
            'D' | 'x' => write("%m/%d/%y"),
            'F' => write("%Y-%m-%d"),
            'R' => write("%H:%M"),
            'r' => write("%I:%M:%S %p"),
            'T' | 'X' => write("%H:%M:%S"),
            'n' => Some("\n".to_owned()),
            't' => Some("\t".to_owned()),
            '%' => Some("%".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_pythons() {
        for (unix_seconds, expected) in [
            (0, "Thu 1 January 1970, 001, 00, 00, 12 AM"),
            (951782399, "Mon 28 February 2000, 059, 09, 09, 11 PM"),
            (951782400, "Tue 29 February 2000, 060, 09, 09, 12 AM"),
            (951868800, "Wed 1 March 2000, 061, 09, 09, 12 AM"),
            (1709210096, "Thu 29 February 2024, 060, 08, 09, 12 PM"),
            (1735689599, "Tue 31 December 2024, 366, 52, 53, 11 PM"),
            (1735689600, "Wed 1 January 2025, 001, 00, 00, 12 AM"),
            (4102444800, "Fri 1 January 2100, 001, 00, 00, 12 AM"),
            (4107542400, "Mon 1 March 2100, 060, 09, 09, 12 AM"),
            (1000000000, "Sun 9 September 2001, 252, 36, 36, 01 AM"),
            (68169600, "Tue 29 February 1972, 060, 09, 09, 12 AM"),
            (13569465600, "Sat 1 January 2400, 001, 00, 00, 12 AM"),
        ] {
            assert_eq!(strftime(unix_seconds, "%a %-d %B %Y, %j, %U, %W, %I %p"), expected);
        }
        let all = "%Y-%m-%d %H:%M:%S %a %A %b %B %e %j %U %W %u %w %y %C %I %p %k %l %-d %-m %-H %-I %-j %-e|%c|%x|%X|%D|%F|%R|%T|%r|%%|%Z%z|%f|%h|%Q|%";
        let expected = "2024-02-29 12:34:56 Thu Thursday Feb February 29 060 08 09 4 4 24 20 12 PM 12 12 29 2 12 12 60 29|Thu Feb 29 12:34:56 2024|02/29/24|12:34:56|02/29/24|2024-02-29|12:34|12:34:56|12:34:56 PM|%||000000|Feb|%Q|%";
        assert_eq!(strftime(1_709_210_096, all), expected);
    }

    #[test]
    fn any_format_is_written() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..100_000 {
            let format: String = (0..random.usize(..6)).map(|_| char::from(b"%-aYjq0"[random.usize(..7)])).collect();
            let year = strftime(random.u64(..1 << 40), &format!("%Y{format}"));
            assert!(year.starts_with(|digit: char| digit.is_ascii_digit()), "seed {seed}: {format:?}");
        }
    }
}
