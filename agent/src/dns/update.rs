//! DNS messages: questions, and updates that change a record in one step (RFC 2136): pure.
//!
//! An update deletes the record and adds the new one in one message, which a server carries out
//! completely or not at all (RFC 2136 §3.4), and only while the record is as it was read (§2.4).

use std::net::Ipv4Addr;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::{Message, MessageBuilder, Name, ParsedName, UnknownRecordData};
use domain::rdata::tsig::Time48;
use domain::rdata::{A, Cname};
use domain::tsig::{ClientTransaction, Key, ValidationError};

use super::failure::Failure;
use super::record::{Change, Found, NEW_TTL, Record};
use super::tsig::UpdateKey;

/// A message to a server, and how its answer is known.
pub struct Request {
    /// The message, without a length in front.
    pub bytes: Vec<u8>,
    id: u16,
}

/// An update, and what its answer must be signed with.
pub struct Update {
    /// The message.
    pub request: Request,
    transaction: ClientTransaction<Key>,
}

/// Asks for the A records of a name; a `recursive` question is for a resolver.
///
/// # Errors
/// For a name that does not fit a message.
pub fn question(name: &str, id: u16, recursive: bool) -> Result<Request, Failure> {
    let name = wire(name)?;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(recursive);
    let mut message = message.question();
    message.push((&name, Rtype::A)).map_err(too_long)?;
    Ok(Request { bytes: message.finish(), id })
}

impl Request {
    /// What the authority of `name` holds, from its answer.
    ///
    /// # Errors
    /// What the server says in place of an answer.
    pub fn found(&self, name: &str, answer: &[u8]) -> Result<Found, Failure> {
        let message = self.message(answer)?;
        if !message.header().aa() {
            let reason =
                format!("the server has no zone of {name}; write the zone's primary server as `server`");
            return Err(Failure::Refused(reason));
        }
        match message.header().rcode() {
            Rcode::NOERROR | Rcode::NXDOMAIN => {}
            other => return Err(refusal(other)),
        }
        let name = wire(name)?;
        let (records, is_alias) = records(&message, &name)?;
        let is_alias = is_alias && records.is_empty();
        Ok(if is_alias { Found::Alias } else { Found::records(records) })
    }

    /// The only address that a resolver answers with, whatever aliases lead to it.
    ///
    /// # Errors
    /// What the server says in place of an answer.
    pub fn address(&self, answer: &[u8]) -> Result<Ipv4Addr, Failure> {
        let message = self.message(answer)?;
        if message.header().rcode() != Rcode::NOERROR {
            return Err(refusal(message.header().rcode()));
        }
        let records = message.answer().map_err(garbled)?.limit_to_in::<A>();
        let mut addresses = Vec::new();
        for record in records {
            addresses.push(record.map_err(garbled)?.data().addr());
        }
        match addresses.as_slice() {
            [address] => Ok(*address),
            others => {
                Err(Failure::unavailable(format!("the answer has {} addresses instead of one", others.len())))
            }
        }
    }

    fn message<'a>(&self, answer: &'a [u8]) -> Result<Message<&'a [u8]>, Failure> {
        let message =
            Message::from_octets(answer).map_err(|_| Failure::unavailable("the answer is too short"))?;
        let is_ours = message.header().qr() && message.header().id() == self.id;
        if is_ours { Ok(message) } else { Err(Failure::unavailable("the answer is to another question")) }
    }
}

/// The A records of exactly this name, and whether it is an alias.
fn records(message: &Message<&[u8]>, name: &Name<Vec<u8>>) -> Result<(Vec<Record>, bool), Failure> {
    let mut found = Vec::new();
    for record in message.answer().map_err(garbled)?.limit_to_in::<A>() {
        let record = record.map_err(garbled)?;
        if record.owner() == name {
            let (address, ttl) = (record.data().addr(), record.ttl().as_secs());
            found.push(Record { address, ttl, id: String::new() });
        }
    }
    let mut is_alias = false;
    for record in message.answer().map_err(garbled)?.limit_to_in::<Cname<ParsedName<_>>>() {
        is_alias |= record.map_err(garbled)?.owner() == name;
    }
    Ok((found, is_alias))
}

/// The message that makes a change, signed at `now`, in seconds since 1970.
///
/// # Errors
/// For names that do not fit a message.
pub fn update(
    zone: &str,
    name: &str,
    change: &Change,
    key: &UpdateKey,
    (id, now): (u16, u64),
) -> Result<Update, Failure> {
    let (zone, owner) = (wire(zone)?, wire(name)?);
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_opcode(Opcode::UPDATE);
    let mut message = filled(message, &zone, &owner, change).map_err(too_long)?;
    let transaction = ClientTransaction::request(key.0.clone(), &mut message, Time48::from_u64(now));
    let transaction = transaction.map_err(too_long)?;
    Ok(Update { request: Request { bytes: message.finish(), id }, transaction })
}

/// Zone, prerequisites and changes, in the places of question, answer and authority (RFC 2136 §2).
fn filled(
    message: MessageBuilder<Vec<u8>>,
    zone: &Name<Vec<u8>>,
    owner: &Name<Vec<u8>>,
    change: &Change,
) -> Result<AdditionalBuilder<Vec<u8>>, PushError> {
    let mut message = message.question();
    message.push((zone, Rtype::SOA))?;
    let mut message = message.answer();
    match change {
        Change::Create(_) => no_record(&mut message, owner)?,
        Change::Among { from, .. } if from.is_empty() => no_record(&mut message, owner)?,
        Change::Replace { from, .. } => message.push((owner, Class::IN, 0, A::new(from.address)))?,
        Change::Among { from, .. } => {
            // Exactly these records (RFC 2136 §2.4.2).
            for record in from {
                message.push((owner, Class::IN, 0, A::new(record.address)))?;
            }
        }
    }
    let mut message = message.authority();
    match change {
        Change::Create(to) => message.push((owner, Class::IN, NEW_TTL, A::new(*to)))?,
        Change::Replace { from, to } => {
            message.push((owner, Class::ANY, 0, none(Rtype::A)?))?;
            message.push((owner, Class::IN, from.ttl, A::new(*to)))?;
        }
        Change::Among { from, added, removed } => {
            let ttl = from.first().map_or(NEW_TTL, |record| record.ttl);
            for address in added {
                message.push((owner, Class::IN, ttl, A::new(*address)))?;
            }
            for address in removed {
                message.push((owner, Class::NONE, 0, A::new(*address)))?;
            }
        }
    }
    Ok(message.additional())
}

/// That a name has no address yet, and is no alias (RFC 2136 §2.4.3).
fn no_record(message: &mut AnswerBuilder<Vec<u8>>, owner: &Name<Vec<u8>>) -> Result<(), PushError> {
    message.push((owner, Class::NONE, 0, none(Rtype::A)?))?;
    message.push((owner, Class::NONE, 0, none(Rtype::CNAME)?))
}

fn none(rtype: Rtype) -> Result<UnknownRecordData<Vec<u8>>, PushError> {
    UnknownRecordData::from_octets(rtype, Vec::new()).map_err(|_| PushError::ShortBuf)
}

impl Update {
    /// What came of it, from the answer that arrived at `now`.
    ///
    /// # Errors
    /// Why the record was not changed.
    pub fn outcome(&self, answer: &[u8], (zone, key): (&str, &UpdateKey), now: u64) -> Result<(), Failure> {
        let rcode = self.request.message(answer)?.header().rcode();
        let mut message =
            Message::from_octets(answer.to_vec()).map_err(|_| Failure::unavailable("too short"))?;
        match self.transaction.answer(&mut message, Time48::from_u64(now)) {
            Ok(()) => {}
            // Without a signature a server can only refuse.
            Err(ValidationError::ServerUnsigned) if rcode != Rcode::NOERROR => {}
            Err(error) => return Err(unsigned(error, key)),
        }
        match rcode {
            Rcode::NOERROR => Ok(()),
            Rcode::NXRRSET | Rcode::YXRRSET => Err(Failure::Outdated),
            Rcode::REFUSED => Err(Failure::Refused(format!(
                "the server does not let the key {key} change this record; allow it there (docs/NAMES.md)"
            ))),
            Rcode::NOTAUTH | Rcode::NOTZONE => Err(Failure::Refused(format!(
                "the server is not the primary one of the zone {zone}; correct `zone` or `server` in the configuration"
            ))),
            Rcode::NOTIMP => {
                Err(Failure::Refused("the server takes no dynamic updates; turn them on there".to_owned()))
            }
            other => Err(refusal(other)),
        }
    }
}

fn unsigned(error: ValidationError, key: &UpdateKey) -> Failure {
    match error {
        // Knot DNS says so as well where the key is right and may not change the record.
        ValidationError::ServerBadKey => Failure::Refused(format!(
            "the server does not take the key {key} for this record: it has no such key of this algorithm, or does not let \
             it change the record; correct that there (docs/NAMES.md), or the key file"
        )),
        ValidationError::ServerBadSig => Failure::Refused(format!(
            "the server's key {key} has another secret; copy it from there into the key file"
        )),
        ValidationError::ServerBadTime { .. } | ValidationError::BadTime => Failure::unavailable(
            "the clocks of this machine and of the server differ by more than 5 minutes; set them (timedatectl)",
        ),
        other @ (ValidationError::BadAlg
        | ValidationError::BadOther
        | ValidationError::BadSig
        | ValidationError::BadTrunc
        | ValidationError::BadKey
        | ValidationError::FormErr
        | ValidationError::ServerUnsigned
        | ValidationError::TooManyUnsigned) => {
            Failure::unavailable(format!("the answer's signature is not valid: {other}"))
        }
    }
}

fn refusal(rcode: Rcode) -> Failure {
    match rcode {
        Rcode::REFUSED => Failure::Refused("the server refuses the question (REFUSED)".to_owned()),
        other => Failure::unavailable(format!("the server answered {other}")),
    }
}

fn wire(name: &str) -> Result<Name<Vec<u8>>, Failure> {
    Name::vec_from_str(name).map_err(|error| Failure::Refused(format!("{name}: {error}")))
}

fn too_long(_: PushError) -> Failure {
    Failure::Refused("the names do not fit a message".to_owned())
}

fn garbled(error: domain::base::wire::ParseError) -> Failure {
    Failure::unavailable(format!("the answer is damaged: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "hmac-sha256:kyiv:c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0IQ==";
    const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    #[test]
    fn a_replacement_is_one_message_that_holds_for_the_record_as_it_was_read_and_keeps_its_ttl() {
        let from = Record { address: OLD, ttl: 300, id: String::new() };
        let sections = sections(&Change::Replace { from, to: NEW });
        assert_eq!(sections, ["IN 0 A 4".to_owned(), "* 0 A 0,IN 300 A 4".to_owned()]);
    }

    #[test]
    fn a_first_record_is_made_only_where_there_is_none_and_no_alias() {
        let sections = sections(&Change::Create(NEW));
        assert_eq!(sections, ["NONE 0 A 0,NONE 0 CNAME 0".to_owned(), "IN 60 A 4".to_owned()]);
    }

    #[test]
    fn a_change_among_several_holds_for_all_records_as_they_were_read() {
        let record = |address| Record { address, ttl: 30, id: String::new() };
        let other = Ipv4Addr::new(192, 0, 2, 77);
        let change =
            Change::Among { from: vec![record(OLD), record(other)], added: vec![NEW], removed: vec![OLD] };
        let sections = sections(&change);
        assert_eq!(sections, ["IN 0 A 4,IN 0 A 4".to_owned(), "IN 30 A 4,NONE 0 A 4".to_owned()]);
    }

    #[test]
    fn an_unsigned_yes_and_an_answer_to_another_question_are_no_answer() {
        let key = UpdateKey::parse(KEY).unwrap();
        let update = update("example.com", "kyiv.example.com", &Change::Create(NEW), &key, (7, 1)).unwrap();
        let outcome = |id, rcode| {
            let mut answer = MessageBuilder::new_vec();
            answer.header_mut().set_id(id);
            answer.header_mut().set_qr(true);
            answer.header_mut().set_opcode(Opcode::UPDATE);
            answer.header_mut().set_rcode(rcode);
            update.outcome(&answer.question().finish(), ("example.com", &key), 1)
        };
        assert!(matches!(outcome(7, Rcode::NOERROR), Err(Failure::Unavailable { .. })));
        assert!(matches!(outcome(8, Rcode::REFUSED), Err(Failure::Unavailable { .. })));
        assert!(matches!(outcome(7, Rcode::REFUSED), Err(Failure::Refused(_))));
        assert!(matches!(outcome(7, Rcode::SERVFAIL), Err(Failure::Unavailable { .. })));
    }

    #[test]
    fn what_is_found_is_of_exactly_the_name_and_from_the_authority() {
        let name: Name<Vec<u8>> = wire("kyiv.example.com").unwrap();
        let other: Name<Vec<u8>> = wire("other.example.com").unwrap();
        let one = |owner: &Name<Vec<u8>>, address| (owner.clone(), address);
        assert_eq!(found(true, &[]), Ok(Found::Nothing));
        let of = |address| Record { address, ttl: 300, id: String::new() };
        assert_eq!(found(true, &[one(&name, OLD), one(&other, NEW)]), Ok(Found::One(of(OLD))));
        assert_eq!(
            found(true, &[one(&name, OLD), one(&name, NEW)]),
            Ok(Found::Several(vec![of(OLD), of(NEW)]))
        );
        assert!(matches!(found(false, &[one(&name, OLD)]), Err(Failure::Refused(_))));
    }

    #[test]
    fn no_answer_makes_it_panic() {
        let request = question("kyiv.example.com", 7, false).unwrap();
        let (mut random, mut bytes) = (fastrand::Rng::with_seed(7), request.bytes.clone());
        for _ in 0..20_000 {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
            bytes[0..4].copy_from_slice(&[0, 7, 0x84, 0]);
            drop(request.found("kyiv.example.com", &bytes));
            drop(request.address(&bytes));
            drop(request.found("kyiv.example.com", &bytes[..at]));
        }
    }

    fn found(is_authority: bool, records: &[(Name<Vec<u8>>, Ipv4Addr)]) -> Result<Found, Failure> {
        let request = question("kyiv.example.com", 7, false).unwrap();
        let mut answer = MessageBuilder::new_vec();
        answer.header_mut().set_id(7);
        answer.header_mut().set_qr(true);
        answer.header_mut().set_aa(is_authority);
        let mut answer = answer.answer();
        for (owner, address) in records {
            answer.push((owner, Class::IN, 300, A::new(*address))).unwrap();
        }
        request.found("kyiv.example.com", &answer.finish())
    }

    /// Prerequisites and changes of an update: class, TTL, type and length of the data.
    fn sections(change: &Change) -> [String; 2] {
        let key = UpdateKey::parse(KEY).unwrap();
        let update = update("example.com", "kyiv.example.com", change, &key, (7, 1)).unwrap();
        let message = Message::from_octets(update.request.bytes.as_slice()).unwrap();
        assert_eq!(message.header().opcode(), Opcode::UPDATE);
        let lines = |section: domain::base::RecordSection<'_, &[u8]>| {
            let lines = section.map(|record| {
                let record = record.unwrap();
                let (class, ttl, rtype) = (record.class(), record.ttl().as_secs(), record.rtype());
                format!("{class} {ttl} {rtype} {}", record.rdlen())
            });
            lines.collect::<Vec<_>>().join(",")
        };
        [lines(message.answer().unwrap()), lines(message.authority().unwrap())]
    }
}
