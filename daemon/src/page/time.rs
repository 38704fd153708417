//! Moments as dates, in UTC.

/// One day in milliseconds.
pub(super) const DAY: u64 = 86_400_000;

/// A moment, such as `2026-11-30T14:05:09Z`, from Unix milliseconds.
#[must_use]
pub(super) fn moment(at: u64) -> String {
    let seconds = at / 1_000 % 86_400;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{}T{hours:02}:{minutes:02}:{seconds:02}Z", date(at / DAY))
}

/// The same for people, such as `2026-11-30 14:05 UTC`.
#[must_use]
pub(super) fn for_people(at: u64) -> String {
    let moment = moment(at);
    format!("{} UTC", moment.get(..16).unwrap_or_default().replace('T', " "))
}

/// The date of a day since 1970-01-01, by the proleptic Gregorian calendar.
#[must_use]
pub(super) fn date(day: u64) -> String {
    // In eras of 400 years that begin on 1 March, so that the leap day is the last of a year.
    let shifted = day.saturating_add(719_468);
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let of_years = of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096;
    let year_of_era = of_years / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (day, text) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (20_787, "2026-11-30"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(day), text);
        }
    }

    #[test]
    fn a_moment_is_in_utc() {
        let at = 20_787 * DAY + (14 * 3_600 + 5 * 60 + 9) * 1_000 + 999;
        assert_eq!(moment(at), "2026-11-30T14:05:09Z");
        assert_eq!(for_people(at), "2026-11-30 14:05 UTC");
    }
}
