//! A change of the running edge is made completely or not at all, and is undone when it is not
//! confirmed in time.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Node, TcpServer, Topology, scenario, until};
use scenarios::Site;
use serde_json::Value;

/// What an operator reads who confirms too late.
const ROLLED_BACK: &str = "not confirmed in time";

#[test]
fn a_change_that_locks_the_operator_out_goes_back_by_itself() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        lab.expect_warning(ROLLED_BACK);
        let mut session = place.log_in_through_the_tunnel()?;
        let applied = Instant::now();
        ensure!(place.apply(&["--confirm", "8s"])?.0 == Some(0));
        ensure!(place.is_locked_out(), "the operator can still log in");
        ensure!(session.write_all(b"?").and_then(|()| session.read_exact(&mut [0])).is_err(), "he stayed");
        ensure!(place.file()? == place.old, "the daemon's file was changed before the confirmation");
        ensure!(place.status()?.pointer("/confirm_within_seconds").is_some_and(Value::is_u64));
        let refused = place.apply(&[])?;
        ensure!(refused.0 == Some(6) && refused.1.contains("gatewayctl confirm"), "{refused:?}");

        until(Duration::from_secs(60), "the operator to be let in again", || {
            Ok((!place.is_locked_out()).then_some(()))
        })?;
        ensure!(applied.elapsed() >= Duration::from_secs(7), "it went back after {:?}", applied.elapsed());
        ensure!(place.log_in_through_the_tunnel().is_ok(), "the tunnel's port is not published again");
        ensure!(place.file()? == place.old);
        let late = place.ctl(&["confirm"])?;
        ensure!(late.0 == Some(7) && late.1.contains("too late"), "{late:?}");
        ensure!(place.status()?.pointer("/confirm_within_seconds").is_some_and(Value::is_null));
        Ok(())
    })
}

#[test]
fn an_unconfirmed_change_goes_back_although_the_daemon_was_killed() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::start(lab)?;
        lab.expect_warning(ROLLED_BACK);
        // Started again before the deadline: the change is in force until then.
        ensure!(place.apply(&["--confirm", "20s"])?.0 == Some(0));
        place.site.gateway()?.kill()?;
        place.site.start_gateway()?;
        ensure!(place.is_locked_out(), "the change was forgotten before its time");
        until(Duration::from_secs(90), "the operator to be let in again", || {
            Ok((!place.is_locked_out()).then_some(()))
        })?;
        // The rules are what they were a moment before the daemon is done with the change.
        until(Duration::from_secs(10), "the change to be over", || {
            let left = place.status()?.pointer("/confirm_within_seconds").cloned();
            Ok(left.is_some_and(|left| left.is_null()).then_some(()))
        })?;

        // Started again after the deadline: the old configuration is in force from the first
        // moment.
        ensure!(place.apply(&["--confirm", "2s"])?.0 == Some(0));
        place.site.gateway()?.kill()?;
        std::thread::sleep(Duration::from_millis(2_500));
        ensure!(place.is_locked_out(), "the rules of a killed daemon do not stay");
        place.site.start_gateway()?;
        ensure!(!place.is_locked_out(), "the unconfirmed change is in force after its time");
        ensure!(place.ctl(&["confirm"])?.0 == Some(7));
        ensure!(place.file()? == place.old);
        Ok(())
    })
}

#[test]
fn a_confirmed_change_stays_in_the_file_and_a_rollback_takes_it_out() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::start(lab)?;
        fs::set_permissions(place.site.gateway_config.path(), fs::Permissions::from_mode(0o640))?;
        let nothing = place.ctl(&["confirm"])?;
        ensure!(nothing.0 == Some(1), "{nothing:?}");

        ensure!(place.apply(&["--confirm", "600s"])?.0 == Some(0));
        let confirmed = place.ctl(&["confirm"])?;
        ensure!(confirmed.0 == Some(0), "{confirmed:?}");
        ensure!(place.file()? == place.new, "the file does not hold what was confirmed");
        let mode = fs::metadata(place.site.gateway_config.path())?.permissions().mode() & 0o777;
        ensure!(mode == 0o640, "the file's mode is {mode:o}");

        // A restart finds the configuration that is in force.
        place.site.gateway_config.text = place.new.clone();
        place.site.gateway()?.kill()?;
        place.site.start_gateway()?;
        ensure!(place.is_locked_out());

        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        ensure!(!place.is_locked_out() && place.file()? == place.old, "the rollback is not in force");
        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        ensure!(place.is_locked_out() && place.file()? == place.new, "the second rollback is not in force");

        // Without --confirm the file is written at once.
        fs::write(&place.draft, &place.old)?;
        ensure!(place.apply(&[])?.0 == Some(0));
        ensure!(!place.is_locked_out() && place.file()? == place.old);

        // A rollback undoes a change that waits for its confirmation at once.
        fs::write(&place.draft, &place.new)?;
        ensure!(place.apply(&["--confirm", "600s"])?.0 == Some(0));
        ensure!(place.is_locked_out());
        ensure!(place.ctl(&["rollback"])?.0 == Some(0));
        ensure!(!place.is_locked_out() && place.file()? == place.old);
        Ok(())
    })
}

#[test]
fn a_change_that_the_kernel_refuses_leaves_everything_byte_for_byte() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let place = Place::start(lab)?;
        // A route that the kernel refuses: IPv6 is disabled on the device.
        place.site.edge.sysctl("net/ipv6/conf/gw0/disable_ipv6", "1")?;
        let before = place.everything()?;
        let old = place.old.clone();
        let unroutable = old
            .replace("\"192.168.88.0/24\"]", "\"192.168.88.0/24\", \"192.168.99.0/24\", \"fd00:88::/64\"]")
            .replace("mtu = 1420", "mtu = 1400");
        let refused = place.apply_text(&unroutable)?;
        ensure!(refused.0 == Some(7) && refused.1.contains("fd00:88::/64"), "{refused:?}");
        ensure!(refused.1.contains("as it was"), "{refused:?}");
        place.compare(&before)?;

        // A port that another program holds.
        let _holder = place.site.edge.udp_socket("0.0.0.0:51999")?;
        let taken = place.apply_text(&old.replace("listen_port = 51820", "listen_port = 51999"))?;
        ensure!(taken.0 == Some(6), "{taken:?}");
        place.compare(&before)?;

        // A peer with the edge's own key, which only the key file shows.
        let own = old.replace(&place.site.wroclaw.public, &place.site.kyiv.public);
        ensure!(place.apply_text(&own)?.0 == Some(4));
        place.compare(&before)?;

        // A change that is refused leaves nothing to confirm.
        let pending = place.apply_with(&unroutable, &["--confirm", "600s"])?;
        ensure!(pending.0 == Some(7), "{pending:?}");
        place.compare(&before)?;
        ensure!(place.ctl(&["confirm"])?.0 == Some(1));
        Ok(())
    })
}

#[test]
fn a_draft_is_understood_as_the_daemons_own_file_wherever_it_lies() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        let mut place = Place::start(lab)?;
        let elsewhere = place.site.edge.directory().join("drafts");
        fs::create_dir_all(&elsewhere)?;
        place.draft = elsewhere.join("gateway.toml");
        let new = place.new.clone();
        let good = place.apply_text(&new)?;
        ensure!(good.0 == Some(0) && place.file()? == new, "{good:?}");

        fs::write(elsewhere.join("kyiv.key"), &place.site.wroclaw.private)?;
        fs::set_permissions(elsewhere.join("kyiv.key"), fs::Permissions::from_mode(0o600))?;
        let stray = place.apply_text(&place.old.clone())?;
        ensure!(stray.0 == Some(6) && stray.1.contains("drafts/kyiv.key"), "{stray:?}");
        ensure!(place.file()? == new, "a refused draft changed the file");

        // A file that was edited in place cannot be applied with --confirm: the old text is gone.
        fs::write(place.site.gateway_config.path(), &place.old)?;
        place.draft = place.site.gateway_config.path().clone();
        let no_way_back = place.apply(&["--confirm", "60s"])?;
        ensure!(no_way_back.0 == Some(6) && no_way_back.1.contains("way back"), "{no_way_back:?}");
        ensure!(place.apply(&[])?.0 == Some(0), "a file edited in place is applied permanently");
        ensure!(!place.is_locked_out());
        Ok(())
    })
}

/// An operator who logs in to the edge from the internet, and a draft that locks him out.
struct Place<'lab> {
    site: Site<'lab>,
    client: Node,
    draft: PathBuf,
    old: String,
    new: String,
    _servers: [TcpServer; 2],
}

impl<'lab> Place<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        let mut site = Site::new(lab)?;
        let servers = [
            TcpServer::start(site.edge.tcp_listener("0.0.0.0:22")?, lab::echo)?,
            TcpServer::start(site.origin.tcp_listener("127.0.0.1:5001")?, lab::echo)?,
        ];
        site.start()?;
        let old = site.gateway_config.text.clone();
        let new = old.replace("accept = [\"tcp/22\"]", "accept = []").replace("\"5001\"", "\"5002\"");
        let draft = site.edge.directory().join("draft.toml");
        fs::write(&draft, &new)?;
        let place = Self { client: lab.node("client")?, site, draft, old, new, _servers: servers };
        ensure!(!place.is_locked_out(), "the operator cannot log in to begin with");
        Ok(place)
    }

    fn is_locked_out(&self) -> bool {
        self.client.tcp_connect("192.0.2.2:22", Duration::from_millis(700)).is_err()
    }

    fn log_in_through_the_tunnel(&self) -> Result<TcpStream> {
        let mut session = self.client.tcp_connect("192.0.2.2:5001", Duration::from_secs(5))?;
        session.set_read_timeout(Some(Duration::from_secs(2)))?;
        session.write_all(b"!")?;
        session.read_exact(&mut [0])?;
        Ok(session)
    }

    /// Exit code and messages of `gatewayctl`.
    fn ctl(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let output = self.site.gatewayctl(arguments)?.output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn apply(&self, more: &[&str]) -> Result<(Option<i32>, String)> {
        let draft = self.draft.to_string_lossy().into_owned();
        self.ctl(&[&["apply", &draft], more].concat())
    }

    fn apply_text(&self, text: &str) -> Result<(Option<i32>, String)> {
        self.apply_with(text, &[])
    }

    fn apply_with(&self, text: &str, more: &[&str]) -> Result<(Option<i32>, String)> {
        fs::write(&self.draft, text)?;
        self.apply(more)
    }

    fn file(&self) -> Result<String> {
        Ok(fs::read_to_string(self.site.gateway_config.path())?)
    }

    fn status(&self) -> Result<Value> {
        let output = self.site.gatewayctl(&["status", "--json"])?.output()?;
        serde_json::from_slice(&output.stdout).context("status is no JSON")
    }

    /// What a refused change must not touch: the rules without their packet counters, and all else.
    fn everything(&self) -> Result<Vec<(String, String)>> {
        let questions = [
            "nft list tables",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "ip -details link show gw0",
            "ip address show gw0",
            "wg show gw0 listen-port",
            "wg show gw0 allowed-ips",
            "sysctl -a --pattern ^net.ipv[46].conf",
        ];
        let mut answers = Vec::new();
        for question in questions {
            answers.push((question.to_owned(), self.site.edge.run(question)?));
        }
        answers.push(("the edge's table".to_owned(), scenarios::table(&self.site.edge)?));
        answers.push(("the daemon's file".to_owned(), self.file()?));
        let state = self.site.edge.directory().join("state");
        for name in ["applied.json", "guard.json", "sysctls.json", "trial.json"] {
            answers.push((name.to_owned(), fs::read_to_string(state.join(name)).unwrap_or_default()));
        }
        let root = self.site.edge.directory().join("state-root");
        for name in ["current.toml", "previous.toml", "pending.json", "draft.toml"] {
            answers.push((name.to_owned(), fs::read_to_string(root.join(name)).unwrap_or_default()));
        }
        Ok(answers)
    }

    fn compare(&self, before: &[(String, String)]) -> Result<()> {
        for ((what, before), (_, after)) in before.iter().zip(self.everything()?) {
            ensure!(*before == after, "{what} before:\n{before}\nand after:\n{after}");
        }
        Ok(())
    }
}
