import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.protobuf.ByteString;
import java.net.http.HttpClient;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import tidegate.v1.Tidegate.ClientFrame;
import tidegate.v1.Tidegate.Ping;
import tidegate.v1.Tidegate.Position;
import tidegate.v1.Tidegate.Priority;
import tidegate.v1.Tidegate.Record;
import tidegate.v1.Tidegate.ServerFrame;
import tidegate.v1.Tidegate.Subscribe;
import tidegate.v1.Tidegate.Subscribed;

/** The scenario that every client plays, for Java. */
final class Scenario {
    private static final long CREDIT = 16_384;
    /** What the server keeps under way for any client that gives credit, so this much is used up for certain. */
    private static final long LITTLE_CREDIT = 4_096;
    /** A frame is at most this long. */
    private static final long FRAME_BYTES = 65_536;

    private final HttpClient http = HttpClient.newHttpClient();
    private final String url;
    private final String prefix;
    private final JsonObject plan;
    private final Map<String, Integer> faults = new TreeMap<>(Map.of("chain", 0, "checksum", 0, "counts", 0));
    private final Map<String, Object> result = new TreeMap<>();
    private Connection publisher;
    private Connection subscriber;
    private Connection stalled;

    Scenario(String url, String prefix, JsonObject plan) {
        this.url = url;
        this.prefix = prefix;
        this.plan = plan;
    }

    Map<String, Object> play() throws InterruptedException {
        hello();
        book();
        replace();
        pattern();
        unsubscribe();
        resume();
        filters();
        windows();
        takeover();
        burst();
        errors();
        goodbye();
        result.put("faults", faults);
        return result;
    }

    private String topic(String name) {
        return prefix + "/" + name;
    }

    private String relative(String topic) {
        return topic.substring(prefix.length() + 1);
    }

    private List<Record> planned(String step) {
        return Client.records(plan.getAsJsonArray(step));
    }

    private Connection connect() throws InterruptedException {
        return connect(new HashMap<>(), ByteString.EMPTY, 0);
    }

    private Connection connect(Map<String, Follower> followers, ByteString session, long credit) throws InterruptedException {
        return Connection.open(http, url, faults, followers, session, credit);
    }

    private static Subscribe.Builder to(String topic) {
        return Subscribe.newBuilder().setTopic(topic);
    }

    private Follower at(String name, long offset) throws InterruptedException {
        return at(name, offset, subscriber);
    }

    /** The topic's follower, when it is at the offset or beyond. */
    private Follower at(String name, long offset, Connection connection) throws InterruptedException {
        String topic = topic(name);
        connection.until(() -> connection.followers.containsKey(topic) && connection.followers.get(topic).isAt(offset));
        return connection.followers.get(topic);
    }

    private void hello() throws InterruptedException {
        publisher = connect();
        result.put("hello", Client.object(
                "protocol", publisher.socket.getSubprotocol(),
                "session_bytes", publisher.welcome.getSession().size(),
                "heartbeat_ms", publisher.welcome.getHeartbeatMs(),
                "max_message_bytes", publisher.welcome.getMaxMessageBytes()));
    }

    private static Map<String, Object> published(ServerFrame frame) {
        return Client.object("offset", frame.getPublished().getOffset(), "duplicate", frame.getPublished().getDuplicate());
    }

    private void book() throws InterruptedException {
        subscriber = connect();
        Subscribed answer = subscriber.subscribe(to(topic("book"))).get(0);
        result.put("unknown_topic", Client.object("topic_id", answer.getTopicId(), "matching", answer.getMatching()));
        JsonArray writes = plan.getAsJsonArray("book");
        // All at once, and then the answers.
        List<Long> requests = new ArrayList<>();
        for (JsonElement records : writes) {
            requests.add(publisher.beginPublish(topic("book"), Client.records(records.getAsJsonArray()), requests.size() + 1));
        }
        List<Long> offsets = new ArrayList<>();
        for (long request : requests) {
            offsets.add(publisher.answered(request).getPublished().getOffset());
        }
        int last = writes.size() - 1;
        ServerFrame duplicate = publisher.publish(topic("book"), Client.records(writes.get(last).getAsJsonArray()), last + 1);
        ServerFrame oldDuplicate = publisher.publish(topic("book"), Client.records(writes.get(0).getAsJsonArray()), 1);
        Follower book = at("book", offsets.get(last));
        result.put("book", Client.with(
                Client.summary(book),
                "offsets", offsets,
                "duplicate", published(duplicate),
                "old_duplicate", published(oldDuplicate),
                "all_events", book.events.size() + book.expired + book.overrunAndLost));
    }

    private void replace() throws InterruptedException {
        long sequence = plan.getAsJsonArray("book").size() + 1;
        long offset = publisher.replace(topic("book"), planned("replace"), sequence).getPublished().getOffset();
        Follower book = at("book", offset);
        Record event = Record.newBuilder().setValue(ByteString.copyFromUtf8("an event")).build();
        ServerFrame refused = publisher.replace(topic("book"), List.of(event), 0);
        result.put("replace", Client.object(
                "offset", offset,
                "state", Client.state(book),
                "checksum", Client.checksum(book),
                "with_event", refused.getError().getCodeValue()));
    }

    private void pattern() throws InterruptedException {
        publisher.publish(topic("side/a"), planned("aside"));
        publisher.publish(topic("side/b"), planned("aside"));
        List<Subscribed> answers = subscriber.subscribe(to(topic("side/*")));
        long offset = publisher.publish(topic("side/c"), planned("aside"));
        List<Map<String, Object>> sides = new ArrayList<>();
        for (String name : List.of("side/a", "side/b", "side/c")) {
            sides.add(Client.summary(at(name, offset)));
        }
        result.put("pattern", Client.object(
                "matching", answers.get(0).getMatching(),
                "first", answers.stream().map(answer -> relative(answer.getTopic())).sorted().toList(),
                "later", subscriber.later.stream().map(at -> relative(at.getTopic())).filter(at -> at.startsWith("side/")).toList(),
                "each", sides));
    }

    private void unsubscribe() throws InterruptedException {
        ServerFrame answer = subscriber.unsubscribe(topic("book"));
        int before = strayPatches();
        publisher.publish(topic("book"), planned("unseen"));
        at("side/a", publisher.publish(topic("side/a"), planned("aside")));
        ServerFrame again = subscriber.unsubscribe(topic("book"));
        result.put("unsubscribe", Client.object(
                "reason", answer.getUnsubscribed().getReasonValue(),
                "patches_after", strayPatches() - before,
                "again", again.getError().getCodeValue()));
    }

    private int strayPatches() {
        synchronized (subscriber) {
            return subscriber.strayPatches;
        }
    }

    private void resume() throws InterruptedException {
        Map<String, Follower> followers = new HashMap<>();
        Connection connection = connect(followers, ByteString.EMPTY, 0);
        Subscribed answer = connection.subscribe(to(topic("book"))).get(0);
        Follower book = at("book", answer.getHead(), connection);
        Position position = Position.newBuilder().setEpoch(book.epoch).setOffset(book.cursor).build();
        connection.socket.abort();
        long head = 0;
        for (JsonElement records : plan.getAsJsonArray("missed")) {
            head = publisher.publish(topic("book"), Client.records(records.getAsJsonArray()));
        }

        int seen = book.patches.size();
        connection = connect(followers, ByteString.EMPTY, 0);
        answer = connection.subscribe(to(topic("book")).setResume(position)).get(0);
        at("book", head, connection);
        result.put("resume", Client.with(
                Client.summary(book),
                "resumed", answer.getResumed(),
                "continues", book.patches.get(seen).getFrom() == position.getOffset()));
        connection.close();

        seen = book.patches.size();
        Position stale = Position.newBuilder().setEpoch(book.epoch ^ 1).setOffset(book.cursor).build();
        connection = connect(followers, ByteString.EMPTY, 0);
        answer = connection.subscribe(to(topic("book")).setResume(stale)).get(0);
        at("book", head, connection);
        result.put("stale_position", Client.with(
                Client.summary(book), "resumed", answer.getResumed(), "reset", book.patches.get(seen).getReset()));
        result.put("closed_by_client", connection.close());
    }

    private Follower filtered(Subscribe.Builder subscribe) throws InterruptedException {
        Connection connection = connect();
        Subscribed answer = connection.subscribe(subscribe.setEventsOnlyNew(true)).get(0);
        Follower follower = at("book", answer.getHead(), connection);
        connection.close();
        return follower;
    }

    private void filters() throws InterruptedException {
        Follower priority = filtered(to(topic("book")).setMinPriority(Priority.PRIORITY_HIGH));
        Follower keys = filtered(to(topic("book")).setKeyPrefix(ByteString.copyFromUtf8("bid/")));
        result.put("filters", Client.object(
                "min_priority", Client.state(priority),
                "key_prefix", Client.state(keys),
                "replayed_events", priority.events.size() + keys.events.size(),
                "checksums", priority.compared + keys.compared));
    }

    private void windows() throws InterruptedException {
        Connection connection = connect(new HashMap<>(), ByteString.EMPTY, LITTLE_CREDIT);
        connection.subscribe(to(topic("calm")));
        connection.subscribe(to(topic("urgent")));
        at("urgent", publisher.publish(topic("urgent"), planned("aside")), connection);
        synchronized (connection) {
            connection.isHolding = true;
        }
        // One record that uses the credit up, then what waits behind it.
        Record filler = Client.record(plan.getAsJsonObject("filler"));
        at("calm", publisher.publish(topic("calm"), List.of(filler)), connection);
        long before = connection.patchBytes;
        long waiting = publisher.publish(topic("calm"), planned("windows"));
        long alarm = publisher.publish(topic("urgent"), planned("alarm"));
        long begun = publisher.ping();
        while (publisher.ping() < begun + 60_000) {
            Thread.sleep(20);
        }
        long held;
        int seen;
        synchronized (connection) {
            held = connection.patchBytes - before;
            seen = connection.arrivals.size();
            connection.release();
        }
        Follower calm = at("calm", waiting, connection);
        Follower urgent = at("urgent", alarm, connection);
        Map<String, Object> found = Client.object(
                "while_out_of_credit", held,
                "first", relative(connection.arrivals.get(seen)),
                "alarms", Client.important(urgent),
                "expired", calm.expired,
                "important_events", Client.important(calm));
        // The key's window passes, and the server deletes it: one offset more.
        long deleted = publisher.publish(topic("calm"), planned("fading")) + 1;
        at("calm", deleted, connection);
        found.put("fading", Client.object("state", Client.state(calm), "deleted", calm.cursor == deleted));
        result.put("windows", found);
    }

    private void takeover() throws InterruptedException {
        Connection old = publisher;
        publisher = connect(new HashMap<>(), old.welcome.getSession(), 0);
        int close = old.closed();
        // What it may have left unanswered, as far as it knows.
        JsonArray writes = plan.getAsJsonArray("book");
        List<Record> last = Client.records(writes.get(writes.size() - 1).getAsJsonArray());
        ServerFrame again = publisher.publish(topic("book"), last, writes.size());
        result.put("takeover", Client.object(
                "same_session", publisher.welcome.getSession().equals(old.welcome.getSession()),
                "reason", old.goAway.getReasonValue(),
                "reconnect_after_ms", old.goAway.getReconnectAfterMs(),
                "close", close,
                "resent_is_duplicate", again.getPublished().getDuplicate()));
    }

    private void burst() throws InterruptedException {
        Connection eager = connect(new HashMap<>(), ByteString.EMPTY, CREDIT);
        eager.subscribe(to(topic("fast")));
        stalled = connect();
        stalled.subscribe(to(topic("fast")));
        stalled.stall();
        List<Long> requests = new ArrayList<>();
        for (JsonElement records : plan.getAsJsonArray("burst")) {
            requests.add(publisher.beginPublish(topic("fast"), Client.records(records.getAsJsonArray()), requests.size() + 1));
            // As many unanswered as a busy publisher has.
            if (requests.size() > 64) {
                publisher.answered(requests.get(requests.size() - 65));
            }
        }
        long head = publisher.answered(requests.get(requests.size() - 1)).getPublished().getOffset();
        stalled.goOn();
        Follower withCredit = at("fast", head, eager);
        Follower afterwards = at("fast", head, stalled);
        eager.release();
        result.put("burst", Client.object(
                "offset", head,
                "with_credit", Client.with(
                        Client.summary(withCredit),
                        "all_given_back", eager.givenBack == eager.patchBytes,
                        "stayed_within", eager.mostUnconfirmed < CREDIT + FRAME_BYTES),
                "stalled", Client.with(Client.summary(afterwards), "merged", afterwards.conflated >= plan.get("merged_at_least").getAsLong())));
    }

    private void errors() throws InterruptedException {
        ServerFrame bad = publisher.ask(ClientFrame.newBuilder().setSubscribe(to("not//a/topic")));
        ServerFrame pattern = publisher.publish(topic("*"), planned("aside"), 0);
        result.put("errors", Client.object(
                "bad_topic", bad.getError().getCodeValue(),
                "pattern_published_to", pattern.getError().getCodeValue(),
                "pong", publisher.ping() >= 0));
        Connection texting = connect();
        texting.send(socket -> socket.sendText("a text message", true));
        int close = texting.closed();
        result.put("text", Client.object("error", texting.lastError.getCodeValue(), "close", close));
        Connection silent = Connection.silent(http, url, faults, new HashMap<>(), 0);
        silent.begin(ClientFrame.newBuilder().setPing(Ping.getDefaultInstance()));
        close = silent.closed();
        result.put("without_hello", Client.object("error", silent.lastError.getCodeValue(), "close", close));
    }

    private void goodbye() throws InterruptedException {
        Client.say("waiting", true);
        int close = stalled.closed();
        result.put("goodbye", Client.object(
                "reason", stalled.goAway.getReasonValue(),
                "comes_back", stalled.goAway.getReconnectAfterMs() > 0,
                "close", close));
    }

    /** Subscribes through a relay that tampers with patches. Each publish is its own patch, so that it knows which. */
    Map<String, Object> playFaulty(String relay) throws InterruptedException {
        publisher = connect();
        Connection connection = Connection.open(http, relay, faults, new HashMap<>(), ByteString.EMPTY, 0);
        connection.subscribe(to(topic("faulty")));
        Follower follower = null;
        for (JsonElement records : plan.getAsJsonArray("faulty")) {
            long offset = publisher.publish(topic("faulty"), Client.records(records.getAsJsonArray()));
            follower = at("faulty", offset, connection);
        }
        return Client.with(Client.summary(follower), "faults", faults, "snapshots", follower.snapshots);
    }
}
