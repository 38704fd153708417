//! README and the tutorials, step by step as they are written: each command is typed at a terminal
//! of its machine, each answer where the text has it, and every line that the text shows must be
//! printed.
//!
//! What a namespace cannot do is done in its place: `apt` and `brew` put this tree's programs where
//! the packages have them, `systemctl` starts what the installed units say, `docker` runs Caddy
//! without a container, and Caddy has an authority of its own. The Mac is a Linux machine that has
//! the Mac's folders. The router, the DNS records and the provider's firewall are the lab's.
//!
//! - `room`: the machines, and what is done at them. `mistakes`: what a reader does wrong.

mod mistakes;
mod room;

use anyhow::Result;
use lab::{Lab, Topology, scenario};
use scenarios::steps::Step;

use room::Room;

const PI_AND_MAC: &str = "docs/TUTORIAL-PI-MAC.md";
const VPS: &str = "docs/TUTORIAL-VPS.md";
const DOCKER: &str = "docs/TUTORIAL-DOCKER.md";

#[test]
fn the_readme_leads_from_two_bare_machines_to_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::one_armed(), |lab| follow(lab, "README.md", &[("edge", "edge"), ("origin", "origin")]))
}

#[test]
fn the_tutorial_for_a_pi_and_a_mac_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::one_armed(), |lab| follow(lab, PI_AND_MAC, &[("pi", "edge"), ("mac", "origin")]))
}

#[test]
fn the_tutorial_for_a_rented_server_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        without_lan(lab)?;
        follow(lab, VPS, &[("vps", "edge"), ("home", "origin")])
    })
}

#[test]
fn the_tutorial_for_docker_ends_with_a_page_that_knows_its_visitor() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        without_lan(lab)?;
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        let mut room = Room::new(lab, &[("edge", "edge"), ("home", "origin")])?;
        // It begins with an edge that is set up.
        room.machine("edge")?.install("gateway")?;
        room.command("edge", "sudo causeway setup")?;
        for text in ["edge.example.com", "yes"] {
            room.see("edge", "…?…")?;
            room.take("edge", &Step::Answer(text.to_owned()))?;
        }
        room.follow(DOCKER)
    })
}

#[test]
fn what_the_tutorial_for_a_pi_and_a_mac_says_of_what_goes_wrong_is_what_is_printed_then() -> Result<()> {
    scenario(Topology::one_armed(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        let mut room = Room::new(lab, &[("pi", "edge"), ("mac", "origin")])?;
        mistakes::of_pi_and_mac(&mut room)?;
        mistakes::are_explained(&room, PI_AND_MAC)
    })
}

#[test]
fn what_the_other_tutorials_say_of_what_goes_wrong_is_what_is_printed_then() -> Result<()> {
    scenario(Topology::standard(), |lab| {
        if !lab::has_real_root() {
            return lab::skip(lab.name(), "only real root has other users").map(drop);
        }
        without_lan(lab)?;
        // A port that the edge does not open.
        lab.expect_warning("refuses a public port");
        let mut room = Room::new(lab, &[("vps", "edge"), ("home", "origin")])?;
        mistakes::of_server(&mut room)?;
        mistakes::of_docker(&mut room)?;
        mistakes::are_explained(&room, VPS)?;
        mistakes::are_explained(&room, DOCKER)
    })
}

/// Takes the edge's local network away, as a rented server has none.
fn without_lan(lab: &Lab) -> Result<()> {
    lab.node("edge")?.ip("address del 192.168.1.2/24 dev eth1\nlink set eth1 down")
}

/// Follows a document from its first step to its last, for the two machines that it names.
fn follow(lab: &Lab, document: &str, names: &[(&'static str, &str)]) -> Result<()> {
    if !lab::has_real_root() {
        return lab::skip(lab.name(), "only real root has other users").map(drop);
    }
    let mut room = Room::new(lab, names)?;
    room.follow(document)
}
