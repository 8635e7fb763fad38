//! What a client asks that other shards must have a say in: its subscriptions, and whose session it is.
//!
//! Nothing more is read from the client until the answers are there, so that what it said stays in order.

use crate::clock::Moment;
use crate::ids::ShardId;
use crate::kernel::SocketId;
use crate::protocol::close::CloseCode;
use crate::protocol::wire::Code;
use crate::session::SessionId;
use crate::shard::core::{Core, Timer};
use crate::shard::message::{ASKED_BYTES, Operation, Pending, ShardMessage};
use crate::topic::{Knowledge, Pattern};

impl Core {
    /// Messages of other shards.
    pub(super) fn receive_from_shards(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        if self.held_back.is_empty() {
            self.mesh.drain(&mut arrived);
        } else {
            arrived.append(&mut self.held_back);
        }
        for (from, message) in arrived.drain(..) {
            // What follows waits, too: between two shards messages keep their order.
            if !self.held_back.is_empty() || self.drops_unflushed_critical(&message) {
                self.held_back.push((from, message));
                continue;
            }
            let neighbour = &mut self.neighbours[usize::from(from.0)];
            (neighbour.heard_at, neighbour.is_silent) = (self.now, false);
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
                let is_claimed = self.claims.contains_key(&session);
                let knowledge = if is_claimed && !self.is_claimed_later(from, session, at) {
                    // Whoever holds it here showed it later, and keeps it.
                    self.knowledge(session)
                } else {
                    let of_claim = self.drop_claim(session);
                    self.let_go(session, at).and(of_claim)
                };
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
        if !self.may_ask(&homes) {
            let Operation::Subscribe { request, .. } = operation else { unreachable!("only subscriptions ask homes") };
            self.counters.limit_hits.shard_answer += 1;
            let (retry, message) =
                (self.settings.limits.shard_answer, "a part of the server does not answer: try again");
            self.answer_error(index, request, Code::Overloaded, message, retry);
            return None;
        }
        let question = self.hold(index, homes.clone(), operation);
        for home in homes {
            let bytes = ASKED_BYTES + 3 * pattern.as_str().len();
            self.mesh.push_question(home, ShardMessage::Fence { question, pattern: pattern.clone() }, bytes);
        }
        self.pass_over_the_silent(question);
        None
    }

    /// Whether these shards can be asked something: none is silent and has as many questions before it as may wait there.
    pub(super) fn may_ask(&self, shards: &[ShardId]) -> bool {
        !shards.iter().any(|shard| self.neighbours[usize::from(shard.0)].is_silent && self.mesh.is_overasked(*shard))
    }

    /// Whether everyone can be asked about a session.
    pub(super) fn may_ask_everyone(&self) -> bool {
        self.may_ask(&self.others().collect::<Vec<_>>())
    }

    /// Asks everyone about a session, and has them let it go.
    pub(super) fn ask_everyone(
        &mut self,
        index: u32,
        session: SessionId,
        mut operation: Operation,
    ) -> Option<Operation> {
        let others: Vec<_> = self.others().collect();
        if others.is_empty() {
            return Some(operation);
        }
        // Of two that show a session here the later has it.
        operation.add(self.drop_claim(session));
        let question = self.hold(index, others, operation);
        self.claims.insert(session, question);
        // It was said; the answers may take what time they take.
        self.at(index).deadline = Moment::NEVER;
        let at = self.now;
        for other in self.others() {
            self.mesh.push_question(other, ShardMessage::Claim { question, session, at }, ASKED_BYTES);
        }
        self.pass_over_the_silent(question);
        None
    }

    fn hold(&mut self, index: u32, missing: Vec<ShardId>, operation: Operation) -> u64 {
        self.questions += 1;
        let (connection, asked_at) = (self.at(index).socket, self.now);
        self.at(index).is_held = true;
        self.pending.insert(self.questions, Pending { connection, asked_at, missing, operation });
        if !self.is_question_timer_armed {
            self.is_question_timer_armed = true;
            self.wheel.insert(asked_at + self.settings.limits.shard_answer, Timer::Questions);
        }
        self.questions
    }

    /// Lets go on what has waited too long, and looks again when the next one has.
    pub(super) fn question_timer(&mut self) {
        self.is_question_timer_armed = false;
        while let Some((question, asked_at)) = self.oldest_waited_for() {
            let until = asked_at + self.settings.limits.shard_answer;
            if until > self.now {
                self.is_question_timer_armed = true;
                self.wheel.insert(until, Timer::Questions);
                return;
            }
            for shard in &self.pending[&question].missing {
                let neighbour = &mut self.neighbours[usize::from(shard.0)];
                // One that says other things has much to do, and its answers are worth waiting for.
                neighbour.is_silent |= neighbour.heard_at <= asked_at;
            }
            self.go_on_without(question);
        }
    }

    /// The question that a client has waited for longest, and since when.
    fn oldest_waited_for(&mut self) -> Option<(u64, Moment)> {
        let mut waited_for = self.pending.range(self.first_waited_for..);
        let oldest = waited_for.find(|(_, pending)| pending.operation.is_waited_for());
        let oldest = oldest.map(|(question, pending)| (*question, pending.asked_at));
        self.first_waited_for = oldest.map_or(self.questions + 1, |(question, _)| question);
        oldest
    }

    /// Nobody waits for shards that are known to say nothing.
    fn pass_over_the_silent(&mut self, question: u64) {
        let missing = &self.pending[&question].missing;
        if missing.iter().all(|shard| self.neighbours[usize::from(shard.0)].is_silent) {
            self.go_on_without(question);
        }
    }

    /// An operation goes on with what is known. What is missing is heeded when it comes.
    fn go_on_without(&mut self, question: u64) {
        let pending = self.pending.get_mut(&question).expect("its caller found it");
        let rest = match &pending.operation {
            Operation::Subscribe { subscribe, .. } => Operation::Subscribed(subscribe.topic.clone()),
            Operation::Hello { session, knowledge, .. } => {
                Operation::Welcomed { session: *session, knowledge: *knowledge }
            }
            Operation::TakenOver(_) | Operation::Subscribed(_) | Operation::Welcomed { .. } => return,
        };
        let mut operation = std::mem::replace(&mut pending.operation, rest);
        let connection = pending.connection;
        if let Operation::Subscribe { is_unsure, .. } = &mut operation {
            *is_unsure = true;
        }
        self.counters.limit_hits.shard_answer += 1;
        self.go_on(connection, operation);
    }

    /// Whether another shard's claim to a session comes behind one of this shard that is not answered yet. If that shard has
    /// answered ours, it made its own later. Else neither knew of the other: both shards find that, and the same winner.
    fn is_claimed_later(&self, by: ShardId, session: SessionId, at: Moment) -> bool {
        self.claims.get(&session).is_some_and(|question| {
            let ours = &self.pending[question];
            !ours.missing.contains(&by) || (at, by) > (ours.asked_at, self.shard)
        })
    }

    /// Another connection shows the session of one that waits to be welcomed: that one goes. What it had been told of the session: whoever
    /// held that has let it go already.
    fn drop_claim(&mut self, session: SessionId) -> Knowledge {
        let Some(question) = self.claims.remove(&session) else { return Knowledge::Nothing };
        let pending = self.pending.get_mut(&question).expect("a claim lasts as long as its question");
        let claim = std::mem::replace(&mut pending.operation, Operation::TakenOver(session));
        let socket = pending.connection;
        // One that was welcomed holds the session, and lets it go as one that does.
        let Operation::Hello { knowledge, .. } = claim else { return Knowledge::Nothing };
        if self.connection(socket).is_some_and(|connection| connection.is_open()) {
            self.counters.takeovers += 1;
            self.send_taken_over(socket.index);
        }
        knowledge
    }

    /// One answer came; with the last one the client's operation goes on.
    fn answered(&mut self, from: ShardId, question: u64, knowledge: Knowledge) {
        let pending = self.pending.get_mut(&question).expect("each answer is to a question that was asked");
        pending.operation.add(knowledge);
        if let Operation::TakenOver(session) = pending.operation
            && let Some(taker) = self.claims.get(&session)
        {
            // The connection that the first of them made let go is gone when the taker asks.
            let taker = self.pending.get_mut(taker).expect("a claim lasts as long as its question");
            taker.operation.add(knowledge);
        }
        let pending = self.pending.get_mut(&question).expect("it was just there");
        pending.missing.retain(|shard| *shard != from);
        if !pending.missing.is_empty() {
            return self.pass_over_the_silent(question);
        }
        let Pending { connection, operation, .. } = self.pending.remove(&question).expect("it was just there");
        if let Operation::Hello { session, .. } | Operation::Welcomed { session, .. } = operation {
            let claim = self.claims.remove(&session);
            assert_eq!(claim, Some(question), "a claim that another one followed was dropped");
        }
        match operation {
            // Its connection is closing; or, welcomed before this answer came, holds the session until its taker is welcomed.
            Operation::TakenOver(_) => {}
            Operation::Subscribed(topic) => self.heed_late_home(&topic),
            Operation::Welcomed { session, knowledge } => self.heed_late_knowledge(connection, session, knowledge),
            operation => self.go_on(connection, operation),
        }
    }

    /// The home of a topic has told what it had to: whoever waited for that begins.
    fn heed_late_home(&mut self, topic: &str) {
        if let Some(topic) = self.topics.find(topic).filter(|topic| self.topics.topic(*topic).log.is_current()) {
            self.begin_waiting(topic);
        }
    }

    /// A shard that was not waited for has forgotten what was published under a session: who was given it is to come anew.
    fn heed_late_knowledge(&mut self, socket: SocketId, session: SessionId, knowledge: Knowledge) {
        let holds_it = self.connection(socket).is_some_and(|connection| connection.session == Some(session));
        if knowledge == Knowledge::Incomplete && holds_it {
            let reason = "what this session published is no longer known";
            self.send_away(socket.index, CloseCode::RESTART, Code::Internal, true, reason);
        }
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
            Operation::Subscribe { request, subscribe, is_unsure } => {
                self.subscribe_now(index, request, &subscribe, is_unsure);
            }
            Operation::Hello { request, credit_bytes, session, at, knowledge } => {
                self.welcome(index, request, credit_bytes, Some((session, at)), knowledge);
            }
            Operation::TakenOver(_) | Operation::Subscribed(_) | Operation::Welcomed { .. } => {
                unreachable!("nothing is left to do")
            }
        }
    }

    /// A client shows a session: whoever holds it here lets it go. What is known of its sequences?
    pub(super) fn let_go(&mut self, session: SessionId, at: Moment) -> Knowledge {
        let was_held = self.take_over(session);
        self.sequences.expire(at);
        let knowledge = self.knowledge(session);
        if knowledge == Knowledge::Complete {
            self.sequences.session_resumed(session.0, at);
        }
        match knowledge {
            // While it is held nothing of it is forgotten but for want of room, which its home then says. So it published nothing
            // with a sequence, or that is known elsewhere, or on its way there.
            Knowledge::Nothing if was_held => Knowledge::Complete,
            known => known,
        }
    }

    fn knowledge(&self, session: SessionId) -> Knowledge {
        self.sequences.knowledge(session.0)
    }

    /// Nobody goes on with a session that was claimed at `since`: its sequences are kept for their time.
    pub(super) fn abandon_session(&mut self, session: SessionId, since: Moment) {
        let at = self.now;
        self.sequences.session_ended(session.0, since, at);
        self.tell_ended(session, since, at);
    }

    /// Other homes must not vouch for a session whose sequences are forgotten here.
    pub(super) fn tell_forgotten_sequences(&mut self) {
        for session in self.sequences.take_forgotten() {
            self.tell_others(|| ShardMessage::SequencesForgotten(SessionId(session)));
        }
    }
}
