//! What a client asks that other shards must have a say in: its subscriptions, and whose session it is.
//!
//! Nothing more is read from the client until the answers are there, so that what it said stays in order.

use crate::clock::Moment;
use crate::ids::ShardId;
use crate::kernel::SocketId;
use crate::session::SessionId;
use crate::shard::core::Core;
use crate::shard::message::{Operation, Pending, ShardMessage};
use crate::topic::{Knowledge, Pattern};

impl Core {
    /// Messages of other shards.
    pub(super) fn receive_from_shards(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.mesh.drain(&mut arrived);
        for (from, message) in arrived.drain(..) {
            self.hear(from, message);
        }
        self.arrived = arrived;
    }

    fn hear(&mut self, from: ShardId, message: ShardMessage) {
        match message {
            ShardMessage::Publish(publish) => self.publish(*publish),
            ShardMessage::Published { connection, request, outcome } => self.published(connection, request, outcome),
            ShardMessage::HoldPublisher(connection) => self.hold_publisher(connection),
            ShardMessage::ReleasePublisher(connection) => self.release_publisher(connection),
            ShardMessage::Created { name, id, epoch } => self.created_elsewhere(from, name, id, epoch),
            ShardMessage::Forgotten(id) => self.forgotten_elsewhere(id),
            ShardMessage::Attach { topic, generation } => self.attach_follower(from, topic, generation),
            ShardMessage::Detach { topic, generation } => self.detach_follower(from, topic, generation),
            ShardMessage::Wanted { topic, generation, is_wanted } => {
                self.follower_wants(from, topic, generation, is_wanted);
            }
            ShardMessage::Transfer { topic, generation, transfer } => self.transferred(topic, generation, *transfer),
            ShardMessage::Fence { question, pattern } => self.fence(from, question, &pattern),
            ShardMessage::FenceReached { question } => self.answered(from, question, Knowledge::Nothing),
            ShardMessage::Claim { question, session, at } => {
                if self.is_claimed_later(from, session, at) {
                    self.drop_claim(session);
                }
                let knowledge = self.let_go(session, at);
                self.mesh.push(from, ShardMessage::Claimed { question, knowledge }, 0);
            }
            ShardMessage::Claimed { question, knowledge } => self.answered(from, question, knowledge),
            ShardMessage::Connection(handed) => self.handed.push(handed),
            ShardMessage::SessionEnded { session, since, at } => self.sequences.session_ended(session.0, since, at),
            ShardMessage::SequencesForgotten(session) => self.sequences.forgotten_elsewhere(session.0),
        }
    }

    /// Asks the shards that know which topics match. False if none but this one has to be asked.
    pub(super) fn ask_homes(&mut self, index: u32, pattern: &Pattern, operation: Operation) -> Option<Operation> {
        let homes: Vec<_> = if pattern.is_exact() {
            vec![self.settings.homes.home_of(pattern.as_str())]
        } else {
            (0..self.mesh.shard_count()).map(ShardId).collect()
        };
        let homes: Vec<_> = homes.into_iter().filter(|home| *home != self.shard).collect();
        if homes.is_empty() {
            return Some(operation);
        }
        let question = self.hold(index, homes.clone(), operation);
        for home in homes {
            self.mesh.push(home, ShardMessage::Fence { question, pattern: pattern.clone() }, 0);
        }
        None
    }

    /// Asks everyone about a session, and has them let it go.
    pub(super) fn ask_everyone(&mut self, index: u32, session: SessionId, operation: Operation) -> Option<Operation> {
        let others: Vec<_> = self.others().collect();
        if others.is_empty() {
            return Some(operation);
        }
        let question = self.hold(index, others, operation);
        // Of two that show a session here the later has it.
        self.drop_claim(session);
        self.claims.insert(session, question);
        // It was said; the answers may take what time they take.
        self.at(index).deadline = Moment::NEVER;
        let at = self.now;
        self.tell_others(|| ShardMessage::Claim { question, session, at });
        None
    }

    fn hold(&mut self, index: u32, missing: Vec<ShardId>, operation: Operation) -> u64 {
        self.questions += 1;
        let (connection, asked_at) = (self.at(index).socket, self.now);
        self.at(index).is_held = true;
        self.pending.insert(self.questions, Pending { connection, asked_at, missing, operation });
        self.questions
    }

    /// Whether another shard's claim to a session comes behind one of this shard that is not answered yet. If that shard has
    /// answered ours, it made its own later. Else neither knew of the other: both shards find that, and the same winner.
    fn is_claimed_later(&self, by: ShardId, session: SessionId, at: Moment) -> bool {
        self.claims.get(&session).is_some_and(|question| {
            let ours = &self.pending[question];
            !ours.missing.contains(&by) || (at, by) > (ours.asked_at, self.shard)
        })
    }

    /// Another connection shows the session of one that waits to be welcomed: that one goes.
    fn drop_claim(&mut self, session: SessionId) {
        let Some(question) = self.claims.remove(&session) else { return };
        let pending = self.pending.get_mut(&question).expect("a claim lasts as long as its question");
        pending.operation = Operation::TakenOver;
        let socket = pending.connection;
        if self.connection(socket).is_some_and(|connection| connection.is_open()) {
            self.counters.takeovers += 1;
            self.send_taken_over(socket.index);
        }
    }

    /// One answer came; with the last one the client's operation goes on.
    fn answered(&mut self, from: ShardId, question: u64, knowledge: Knowledge) {
        let pending = self.pending.get_mut(&question).expect("each answer is to a question that was asked");
        pending.operation.add(knowledge);
        pending.missing.retain(|shard| *shard != from);
        if !pending.missing.is_empty() {
            return;
        }
        let Pending { connection, operation, .. } = self.pending.remove(&question).expect("it was just there");
        if let Operation::Hello { session, .. } = operation {
            let claim = self.claims.remove(&session);
            assert_eq!(claim, Some(question), "a claim that another one followed was dropped");
        }
        self.go_on(connection, operation);
    }

    fn go_on(&mut self, socket: SocketId, operation: Operation) {
        let Some(connection) = self.connection(socket).filter(|connection| connection.is_open()) else {
            if let Operation::Hello { session, at, .. } = operation {
                self.abandon_session(session, at);
            }
            return;
        };
        connection.is_held = false;
        self.resumable.push(socket);
        self.perform(socket.index, operation);
    }

    /// Does what a client asked for, with every answer at hand.
    pub(super) fn perform(&mut self, index: u32, operation: Operation) {
        match operation {
            Operation::Subscribe { request, subscribe } => self.subscribe_now(index, request, &subscribe),
            Operation::Hello { request, credit_bytes, session, at, knowledge } => {
                self.welcome(index, request, credit_bytes, Some((session, at)), knowledge);
            }
            Operation::TakenOver => unreachable!("its connection is closing"),
        }
    }

    /// A client shows a session: whoever holds it here lets it go. What is known of its sequences?
    pub(super) fn let_go(&mut self, session: SessionId, at: Moment) -> Knowledge {
        let published_elsewhere = self.take_over(session);
        self.sequences.expire(at);
        let knowledge = self.sequences.knowledge(session.0);
        if knowledge == Knowledge::Complete {
            self.sequences.session_resumed(session.0, at);
        }
        match knowledge {
            // What it published may still be on its way to the home, which then knows of nothing. But it will be known there.
            Knowledge::Nothing if published_elsewhere => Knowledge::Complete,
            known => known,
        }
    }

    /// Nobody goes on with a session that was claimed at `since`: its sequences are kept for their time.
    pub(super) fn abandon_session(&mut self, session: SessionId, since: Moment) {
        let at = self.now;
        self.sequences.session_ended(session.0, since, at);
        self.tell_others(|| ShardMessage::SessionEnded { session, since, at });
    }

    /// Other homes must not vouch for a session whose sequences are forgotten here.
    pub(super) fn tell_forgotten_sequences(&mut self) {
        for session in self.sequences.take_forgotten() {
            self.tell_others(|| ShardMessage::SequencesForgotten(SessionId(session)));
        }
    }
}
