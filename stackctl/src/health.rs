//! Whether a service came up: judged from its containers, one look at a time.

/// Restarts after which a container is called one that crashes again and again: about a second with Docker's pauses.
const CRASHES: u64 = 3;
/// A container that was restarted counts as up again after this many seconds.
const STEADY: u64 = 10;

/// What to do about a container that Docker cannot start, by a part of its reason.
const FIXES: [(&str, &str); 4] = [
    (
        "cannot assign requested address",
        " (this machine has no such address: correct it where the port is published, in an env file or the Compose file)",
    ),
    ("address already in use", " (another program has that port: `ss -ltnup` shows which)"),
    ("port is already allocated", " (another container has that port: `docker ps` shows which)"),
    ("error while mounting volume", " (the volume's driver options, or the server that they name)"),
];

/// What one look shows of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look<'l> {
    /// The Compose service.
    pub service: &'l str,
    /// `running`, `exited`, `restarting`…
    pub status: &'l str,
    /// `healthy`, `unhealthy`, `starting`, or `-` without a check.
    pub health: &'l str,
    /// The last exit code.
    pub exit_code: i64,
    /// Why Docker could not start it; empty when it could.
    pub error: &'l str,
    /// Whether Docker starts it again when it ends.
    pub restarts: bool,
    /// How often Docker started it again.
    pub restarted: u64,
    /// Seconds since it was last started.
    pub up_for: Option<u64>,
}

impl Look<'_> {
    /// Whether it ends soon after each start, and is started again.
    #[must_use]
    pub fn crashes(&self) -> bool {
        let young = self.up_for.is_none_or(|seconds| seconds < STEADY);
        self.restarted >= CRASHES && (self.status == "restarting" || (self.status == "running" && young))
    }

    /// Whether it was restarted and has not run for long enough to be called up.
    fn unsteady(&self) -> bool {
        self.restarted > 0 && self.up_for.is_some_and(|seconds| seconds < STEADY)
    }

    /// Whether it ended, as it should, after its one job.
    #[must_use]
    pub fn did_its_job(&self) -> bool {
        self.status == "exited" && self.exit_code == 0 && !self.restarts
    }

    /// What is wrong with it, in words; `true` when it does not run as it should although it was started.
    #[must_use]
    pub fn problem(&self) -> Option<(bool, String)> {
        if let Some(why) = self.refused() {
            return Some((true, why));
        }
        if self.crashes() || self.status == "restarting" {
            return Some((true, self.crash_text()));
        }
        match (self.status, self.health) {
            ("running", "unhealthy") => Some((true, "its health check fails".into())),
            ("running", _) => None,
            _ if self.did_its_job() => None,
            // 137 and 143 are what `docker stop` leaves.
            ("exited", _) if matches!(self.exit_code, 0 | 137 | 143) => Some((false, "it is stopped".into())),
            ("exited" | "dead", _) => Some((true, format!("it ended with code {}", self.exit_code))),
            ("created", _) => Some((false, "it was never started".into())),
            (status, _) => Some((false, format!("it is {status}"))),
        }
    }

    /// Why Docker could not start it, and how to fix it.
    fn refused(&self) -> Option<String> {
        let is_down = matches!(self.status, "created" | "exited" | "dead");
        if !is_down || self.error.is_empty() {
            return None;
        }
        // Where in Docker it failed helps no one.
        let mut text = self.error;
        for place in ["on endpoint ", "Error starting userland proxy", "starting container process caused"] {
            text = text
                .split_once(place)
                .and_then(|(_, rest)| rest.split_once(": "))
                .map_or(text, |(_, rest)| rest);
        }
        let text = text.trim_end_matches(": unknown");
        let fix = FIXES.iter().find(|(part, _)| text.contains(part)).map_or("", |(_, fix)| fix);
        Some(format!("Docker cannot start it: {text}{fix}"))
    }

    fn crash_text(&self) -> String {
        let times = if self.restarted == 1 { "once".into() } else { format!("{} times", self.restarted) };
        // While it runs, Docker has no exit code to give.
        let code = match self.status {
            "running" => String::new(),
            _ => format!(", last exit code {}", self.exit_code),
        };
        format!("it crashes again and again: restarted {times}{code}")
    }
}

/// What the looks at all containers of a service come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every wanted container runs and is healthy, or did its one job.
    Healthy,
    /// Not yet: what is waited for.
    Waiting(String),
    /// A container that will not come up by itself, and why.
    Failed {
        /// The Compose service.
        service: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Judges the containers of a project against the services it must have.
#[must_use]
pub fn judge(wanted: &[&str], looks: &[Look<'_>]) -> Verdict {
    let mut waiting = Vec::new();
    for service in wanted {
        if !looks.iter().any(|look| look.service == *service) {
            waiting.push(format!("{service} missing"));
        }
    }
    // A container may crash because another is not there yet.
    let settling =
        !waiting.is_empty() || looks.iter().any(|look| look.health == "starting" && !look.crashes());
    for look in looks.iter().filter(|look| wanted.contains(&look.service)) {
        let failed = |why: String| Verdict::Failed { service: look.service.to_owned(), why };
        if let Some(why) = look.refused() {
            return failed(why);
        }
        match (look.status, look.health) {
            _ if look.crashes() && !settling => return failed(look.crash_text()),
            ("running", "healthy" | "-") if look.unsteady() => {
                waiting.push(format!("{} restarted {} times", look.service, look.restarted));
            }
            ("running", "healthy" | "-") => {}
            ("running", "unhealthy") => return failed("its health check fails".into()),
            ("exited", _) if look.did_its_job() => {}
            ("exited" | "dead", _) if !look.restarts => {
                return failed(format!("it ended with code {}", look.exit_code));
            }
            (status, "-") => waiting.push(format!("{} {status}", look.service)),
            (_, health) => waiting.push(format!("{} {health}", look.service)),
        }
    }
    if waiting.is_empty() { Verdict::Healthy } else { Verdict::Waiting(waiting.join(", ")) }
}

/// Seconds since 1970 of a time as Docker writes it (`2026-11-29T19:48:35.57Z`); a container that never ran has none.
#[must_use]
pub fn seconds_of(time: &str) -> Option<u64> {
    let (date, clock) = time.split_once('T')?;
    let numbers = |text: &str, by: char| text.split(by).map(|part| part.parse::<u64>().ok()).collect();
    let date: Option<Vec<u64>> = numbers(date, '-');
    let clock: Option<Vec<u64>> = numbers(clock.split(['.', 'Z', '+']).next()?, ':');
    let [year, month, day] = *date?.as_slice() else { return None };
    let [hour, minute, second] = *clock?.as_slice() else { return None };
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = (year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_healthy_when_each_container_is_or_did_its_job() {
        let looks =
            [look("web", "running", "healthy"), look("db", "running", "-"), look("init", "exited", "-")];
        assert_eq!(judge(&["web", "db", "init"], &looks), Verdict::Healthy);
        assert_eq!(judge(&["web", "cache"], &looks), Verdict::Waiting("cache missing".into()));
    }

    #[test]
    fn starting_and_restarting_are_waited_for() {
        let looks = [look("web", "running", "starting"), look("db", "restarting", "-")];
        assert_eq!(judge(&["web", "db"], &looks), Verdict::Waiting("web starting, db restarting".into()));
        let mut again = look("web", "exited", "-");
        (again.exit_code, again.restarts) = (1, true);
        assert!(matches!(judge(&["web"], &[again]), Verdict::Waiting(_)));
    }

    #[test]
    fn what_will_not_come_up_by_itself_fails_at_once() {
        let sick = judge(&["web"], &[look("web", "running", "unhealthy")]);
        assert_eq!(sick, Verdict::Failed { service: "web".into(), why: "its health check fails".into() });
        let mut ended = look("web", "exited", "-");
        ended.exit_code = 3;
        assert!(
            matches!(judge(&["web"], &[ended]), Verdict::Failed { why, .. } if why == "it ended with code 3")
        );
    }

    #[test]
    fn a_container_that_crashes_again_and_again_fails_unless_another_is_still_starting() {
        let mut crashing = look("web", "restarting", "-");
        (crashing.exit_code, crashing.restarts, crashing.restarted) = (3, true, 4);
        let failed = judge(&["web"], &[crashing.clone()]);
        let why = "it crashes again and again: restarted 4 times, last exit code 3";
        assert_eq!(failed, Verdict::Failed { service: "web".into(), why: why.into() });
        let starting = look("db", "running", "starting");
        assert!(matches!(judge(&["web", "db"], &[crashing.clone(), starting]), Verdict::Waiting(_)));
        (crashing.status, crashing.up_for) = ("running", Some(1));
        assert!(
            matches!(judge(&["web"], &[crashing.clone()]), Verdict::Failed { .. }),
            "between two crashes"
        );
        crashing.up_for = Some(60);
        assert_eq!(judge(&["web"], &[crashing]), Verdict::Healthy, "it recovered");
    }

    #[test]
    fn a_restarted_container_is_up_once_it_has_run_for_a_while() {
        let mut once = look("web", "running", "-");
        (once.restarted, once.up_for) = (1, Some(2));
        assert!(matches!(judge(&["web"], &[once.clone()]), Verdict::Waiting(_)));
        once.up_for = Some(STEADY);
        assert_eq!(judge(&["web"], &[once]), Verdict::Healthy);
    }

    #[test]
    fn what_docker_cannot_start_has_dockers_reason_and_a_fix() {
        let mut refused = look("web", "created", "-");
        let reasons = [
            (
                "driver failed programming external connectivity on endpoint web-web-1 (0123): Error starting userland proxy: listen tcp4 192.168.88.2:443: bind: cannot assign requested address",
                "Docker cannot start it: listen tcp4 192.168.88.2:443: bind: cannot assign requested address (this machine has no such address",
            ),
            (
                "driver failed programming external connectivity on endpoint a (0): Bind for 127.0.0.1:80 failed: port is already allocated",
                "Docker cannot start it: Bind for 127.0.0.1:80 failed: port is already allocated (another container",
            ),
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown",
                "Docker cannot start it: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH",
            ),
            ("something new", "Docker cannot start it: something new"),
        ];
        for (error, text) in reasons {
            refused.error = error;
            let (broken, why) = refused.problem().expect("problem");
            assert!(broken && why.starts_with(text), "{why}");
            let waiting = look("db", "created", "-");
            let failed = judge(&["db", "web"], &[waiting, refused.clone()]);
            assert_eq!(failed, Verdict::Failed { service: "web".into(), why });
        }
        refused.status = "running";
        assert_eq!(judge(&["web"], &[refused]), Verdict::Healthy, "it started since");
    }

    #[test]
    fn trouble_is_broken_or_only_stopped() {
        assert_eq!(look("web", "running", "starting").problem(), None);
        assert_eq!(look("init", "exited", "-").problem(), None);
        let broken = |look: Look<'_>| look.problem().map(|(broken, _)| broken);
        assert_eq!(broken(look("web", "running", "unhealthy")), Some(true));
        assert_eq!(broken(look("web", "restarting", "-")), Some(true));
        assert_eq!(broken(look("web", "paused", "-")), Some(false));
        let ended = |code, restarts| Look { exit_code: code, restarts, ..look("web", "exited", "-") };
        assert_eq!(broken(ended(143, true)), Some(false), "stopped by hand");
        assert_eq!(broken(ended(1, false)), Some(true));
    }

    #[test]
    fn dockers_times_are_seconds() {
        assert_eq!(seconds_of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds_of("2026-11-29T19:48:35.577322896Z"), Some(1_795_981_715));
        assert_eq!(seconds_of("2024-02-29T00:00:01+00:00"), Some(1_709_164_801));
        for none in ["0001-01-01T00:00:00Z", "", "yesterday", "2026-13-01T00:00:00Z"] {
            assert_eq!(seconds_of(none), None, "{none}");
        }
    }

    fn look<'l>(service: &'l str, status: &'l str, health: &'l str) -> Look<'l> {
        Look { service, status, health, exit_code: 0, error: "", restarts: false, restarted: 0, up_for: None }
    }
}
