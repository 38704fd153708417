//! Response times and their summary.

use std::time::Duration;

use serde::Serialize;

/// Response times of one run.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    micros: Vec<f64>,
    errors: u64,
}

/// The summary of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Answers per second, all connections together.
    per_second: f64,
    /// Median in microseconds.
    p50_us: f64,
    /// 99th percentile in microseconds.
    p99_us: f64,
    /// The worst, in microseconds.
    max_us: f64,
    /// Questions without an answer.
    errors: u64,
}

impl Samples {
    pub(crate) fn add(&mut self, time: Duration) {
        self.micros.push(time.as_secs_f64() * 1e6);
    }

    pub(crate) fn fail(&mut self) {
        self.errors += 1;
    }

    pub(crate) fn join(mut self, other: Self) -> Self {
        self.micros.extend(other.micros);
        self.errors += other.errors;
        self
    }

    pub(crate) fn summary(mut self, length: Duration) -> Summary {
        self.micros.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let last = self.micros.len().saturating_sub(1);
            let place = (share * last as f64).round() as usize;
            self.micros.get(place).copied().unwrap_or(f64::NAN)
        };
        Summary {
            per_second: self.micros.len() as f64 / length.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
            errors: self.errors,
        }
    }
}
