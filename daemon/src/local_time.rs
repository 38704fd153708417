//! Unix time as this machine's users write it.
#![expect(unsafe_code, reason = "the system alone knows its time zone")]

use std::mem::MaybeUninit;

/// The date and the time of day in the machine's time zone, such as `2026-11-30 14:02:31`, of Unix
/// milliseconds.
#[must_use]
pub fn shown(millis: u64) -> String {
    // The type is the one of `localtime_r`, which is narrower on 32 bits.
    let Ok(seconds) = (millis / 1_000).try_into() else {
        return format!("{} s after 1970", millis / 1_000);
    };
    let mut parts = MaybeUninit::<libc::tm>::uninit();
    // SAFETY: both pointers are to values of this function; the result is read only when the
    // system says that it wrote it.
    let parts = unsafe {
        if libc::localtime_r(&raw const seconds, parts.as_mut_ptr()).is_null() {
            return format!("{seconds} s after 1970");
        }
        parts.assume_init()
    };
    let (year, month) = (i64::from(parts.tm_year) + 1_900, parts.tm_mon + 1);
    let (day, hour, minute, second) = (parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_with_its_date_and_none_is_too_far() {
        let text = shown(1_796_047_351_000);
        assert!(text.starts_with("2026-1") && text.len() == "2026-11-30 14:02:31".len(), "{text}");
        assert!(!shown(u64::MAX).is_empty());
    }
}
