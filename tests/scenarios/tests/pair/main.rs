//! Two edges at one site, with keepalived and conntrackd as `gatewayctl export` writes them: whatever
//! happens to the active one, connections go on.

// What each fault cost is printed; an edge of a pair is 0 or 1.
#![allow(clippy::indexing_slicing, clippy::print_stdout)]

mod edge;
mod faults;
mod link;
mod place;
mod site;

use anyhow::Result;
use lab::full_counts;

use faults::Fault;
use place::{Nat, Place};
use site::{Wanted, with_pair};

#[test]
fn connections_outlive_a_switch_and_the_loss_of_the_active_edge() -> Result<()> {
    with_pair(&Wanted::default(), |pair| {
        let faults: &[Fault] = if full_counts() { &Fault::ALL } else { &[Fault::Switch, Fault::Power] };
        faults.iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn an_edge_that_thaws_or_comes_back_takes_no_session_away_behind_a_full_cone_nat() -> Result<()> {
    with_pair(&Wanted { nat: Nat::FullCone, ..Wanted::default() }, |pair| {
        pair.suffers(Fault::Frozen)?;
        if full_counts() {
            pair.suffers(Fault::Killed)?;
            (0..5).try_for_each(|_| pair.suffers(Fault::Switch))?;
        }
        Ok(())
    })
}

#[test]
fn connections_outlive_a_switch_of_a_shared_address_of_ipv6() -> Result<()> {
    with_pair(&Wanted { place: Place::Ipv6, ..Wanted::default() }, |pair| {
        let faults: &[Fault] = if full_counts() { &Fault::ALL } else { &[Fault::Switch] };
        faults.iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn connections_outlive_a_switch_between_edges_with_one_cable_behind_a_home_router() -> Result<()> {
    with_pair(&Wanted { place: Place::OneArmed, ..Wanted::default() }, |pair| {
        let faults: &[Fault] = if full_counts() { &Fault::ALL } else { &[Fault::Switch] };
        faults.iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn messages_that_are_forged_on_the_link_between_the_edges_change_nothing() -> Result<()> {
    with_pair(&Wanted { has_keepalived: false, ..Wanted::default() }, link::forged)
}

#[test]
fn recordings_of_the_link_between_the_edges_change_nothing() -> Result<()> {
    with_pair(&Wanted { has_keepalived: false, ..Wanted::default() }, link::recorded)
}

#[test]
fn soak_connections_outlive_a_switch_between_edges_whose_clocks_are_apart() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { has_other_clock: true, ..Wanted::default() }, |pair| {
        (0..4).try_for_each(|_| pair.suffers(Fault::Switch))
    })
}

#[test]
fn soak_connections_outlive_a_switch_behind_a_symmetric_nat() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { nat: Nat::Symmetric, ..Wanted::default() }, |pair| {
        [Fault::Switch, Fault::Killed, Fault::Power].iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn soak_two_hundred_connections_outlive_a_switch_and_the_loss_of_the_active_edge() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { flows: (180, 20), ..Wanted::default() }, |pair| {
        [Fault::Switch, Fault::Killed, Fault::Power].iter().try_for_each(|fault| pair.suffers(*fault))
    })
}

#[test]
fn soak_connections_outlive_the_loss_of_the_active_edge_with_an_origin_that_is_20_ms_away() -> Result<()> {
    if !full_counts() {
        return Ok(());
    }
    with_pair(&Wanted { is_far: true, ..Wanted::default() }, |pair| {
        Fault::ALL.iter().try_for_each(|fault| pair.suffers(*fault))
    })
}
