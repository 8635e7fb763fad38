import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import tidegate.v1.Tidegate.ClientFrame;
import tidegate.v1.Tidegate.Credit;
import tidegate.v1.Tidegate.Error;
import tidegate.v1.Tidegate.GoAway;
import tidegate.v1.Tidegate.Hello;
import tidegate.v1.Tidegate.Patch;
import tidegate.v1.Tidegate.Ping;
import tidegate.v1.Tidegate.Pong;
import tidegate.v1.Tidegate.Publish;
import tidegate.v1.Tidegate.Record;
import tidegate.v1.Tidegate.ServerFrame;
import tidegate.v1.Tidegate.Subscribe;
import tidegate.v1.Tidegate.Subscribed;
import tidegate.v1.Tidegate.Unsubscribe;
import tidegate.v1.Tidegate.Welcome;

/**
 * A client for Java, written from docs/protocol.md: one WebSocket, from Hello to its close code. What is received is applied
 * by the HTTP client's threads; everything is guarded by the connection's monitor, and waiting is waiting for that.
 */
final class Connection implements WebSocket.Listener {
    /** Generous: nothing is measured here. */
    private static final long PATIENCE_MS = 60_000;

    final Map<String, Integer> faults;
    final Map<String, Follower> followers;
    final Map<Integer, Follower> topics = new HashMap<>();
    final List<String> subscriptions = new ArrayList<>();
    final Map<Long, List<ServerFrame>> answers = new HashMap<>();
    final List<Subscribed> later = new ArrayList<>();
    /** Names of topics, patch by patch. */
    final List<String> arrivals = new ArrayList<>();
    WebSocket socket;
    Welcome welcome;
    GoAway goAway;
    Error lastError;
    Integer closeCode;
    int strayPatches;
    long patchBytes;
    long givenBack;
    long mostUnconfirmed;
    boolean isHolding;
    private final long credit;
    private long requests;
    private boolean isStalled;
    private boolean owesDemand;
    private Throwable failure;
    private ByteString message = ByteString.EMPTY;
    private CompletableFuture<WebSocket> sent;

    private Connection(Map<String, Integer> faults, Map<String, Follower> followers, long credit) {
        this.faults = faults;
        this.followers = followers;
        this.credit = credit;
    }

    /** Connects, without saying Hello. */
    static Connection silent(HttpClient http, String url, Map<String, Integer> faults, Map<String, Follower> followers, long credit) {
        Connection connection = new Connection(faults, followers, credit);
        connection.socket =
                http.newWebSocketBuilder().subprotocols("tidegate.v1").buildAsync(URI.create(url + "/v1/ws"), connection).join();
        synchronized (connection) {
            connection.sent = CompletableFuture.completedFuture(connection.socket);
            connection.socket.request(1);
        }
        return connection;
    }

    static Connection open(
            HttpClient http, String url, Map<String, Integer> faults, Map<String, Follower> followers, ByteString session, long credit)
            throws InterruptedException {
        Connection connection = silent(http, url, faults, followers, credit);
        Hello.Builder hello = Hello.newBuilder().setAgent("interop-java").setSession(session).setCreditBytes(credit);
        connection.welcome = connection.ask(ClientFrame.newBuilder().setHello(hello)).getWelcome();
        return connection;
    }

    /** The socket takes one message at a time, so each waits for the one before it. */
    private synchronized void send(ClientFrame frame) {
        ByteBuffer bytes = ByteBuffer.wrap(frame.toByteArray());
        send(socket -> socket.sendBinary(bytes, true));
    }

    synchronized void send(Function<WebSocket, CompletableFuture<WebSocket>> message) {
        sent = sent.thenCompose(message);
        sent.exceptionally(problem -> {
            onError(socket, problem);
            return null;
        });
    }

    /** Sends a request, and returns its number. */
    synchronized long begin(ClientFrame.Builder frame) {
        answers.put(++requests, new ArrayList<>());
        send(frame.setRequest(requests).build());
        return requests;
    }

    synchronized ServerFrame answered(long request, int count) throws InterruptedException {
        List<ServerFrame> to = answers.get(request);
        until(() -> to.size() >= count);
        return to.get(count - 1);
    }

    ServerFrame answered(long request) throws InterruptedException {
        return answered(request, 1);
    }

    ServerFrame ask(ClientFrame.Builder frame) throws InterruptedException {
        return answered(begin(frame));
    }

    long beginPublish(String topic, List<Record> records, long sequence) {
        return begin(ClientFrame.newBuilder()
                .setPublish(Publish.newBuilder().setTopic(topic).addAllRecords(records).setSequence(sequence)));
    }

    ServerFrame publish(String topic, List<Record> records, long sequence) throws InterruptedException {
        return answered(beginPublish(topic, records, sequence));
    }

    /** Returns the last record's offset. */
    long publish(String topic, List<Record> records) throws InterruptedException {
        return publish(topic, records, 0).getPublished().getOffset();
    }

    ServerFrame replace(String topic, List<Record> records, long sequence) throws InterruptedException {
        Publish.Builder publish = Publish.newBuilder().setTopic(topic).addAllRecords(records).setSequence(sequence).setReplace(true);
        return ask(ClientFrame.newBuilder().setPublish(publish));
    }

    /** Returns the answers: one for each topic that matches now. */
    List<Subscribed> subscribe(Subscribe.Builder subscribe) throws InterruptedException {
        long request = beginSubscribe(subscribe);
        int count = Math.max(1, answered(request).getSubscribed().getMatching());
        answered(request, count);
        synchronized (this) {
            return answers.get(request).stream().map(ServerFrame::getSubscribed).toList();
        }
    }

    private synchronized long beginSubscribe(Subscribe.Builder subscribe) {
        if (!subscriptions.contains(subscribe.getTopic())) {
            subscriptions.add(subscribe.getTopic());
        }
        return begin(ClientFrame.newBuilder().setSubscribe(subscribe));
    }

    ServerFrame unsubscribe(String topic) throws InterruptedException {
        return ask(ClientFrame.newBuilder().setUnsubscribe(Unsubscribe.newBuilder().setTopic(topic)));
    }

    /** Which subscription a topic is delivered under: the first that matches. */
    private String subscription(String name) {
        return subscriptions.stream().filter(pattern -> matches(pattern, name)).findFirst().orElseThrow();
    }

    /** `*` stands for one segment, a last `**` for one or more. */
    static boolean matches(String pattern, String name) {
        List<String> wanted = Arrays.asList(pattern.split("/"));
        List<String> segments = Arrays.asList(name.split("/"));
        int last = wanted.size() - 1;
        if (wanted.get(last).equals("**") && segments.size() > last) {
            wanted = wanted.subList(0, last);
            segments = segments.subList(0, last);
        }
        if (wanted.size() != segments.size()) {
            return false;
        }
        for (int at = 0; at < wanted.size(); at++) {
            if (!wanted.get(at).equals("*") && !wanted.get(at).equals(segments.get(at))) {
                return false;
            }
        }
        return true;
    }

    /** The server's clock in microseconds, or -1 if the pong is not the ping's. */
    long ping() throws InterruptedException {
        long mine = System.currentTimeMillis() * 1_000;
        Pong pong = ask(ClientFrame.newBuilder().setPing(Ping.newBuilder().setClientTimeUs(mine))).getPong();
        return pong.getClientTimeUs() == mine ? pong.getServerTimeUs() : -1;
    }

    /** Waits until something that was received made the condition true. */
    synchronized void until(BooleanSupplier condition) throws InterruptedException {
        waitFor(condition);
        if (!condition.getAsBoolean()) {
            throw new IllegalStateException("closed with " + closeCode + " while waiting; last error: " + lastError, failure);
        }
    }

    synchronized int closed() throws InterruptedException {
        waitFor(() -> false);
        if (closeCode == null) {
            throw new IllegalStateException("the connection failed", failure);
        }
        return closeCode;
    }

    private void waitFor(BooleanSupplier condition) throws InterruptedException {
        long until = System.nanoTime() + PATIENCE_MS * 1_000_000;
        while (!condition.getAsBoolean() && closeCode == null && failure == null) {
            long left = (until - System.nanoTime()) / 1_000_000;
            if (left <= 0) {
                throw new IllegalStateException("waited in vain");
            }
            wait(left);
        }
    }

    /** Asks the library for nothing more, so that it reads nothing more. */
    synchronized void stall() {
        isStalled = true;
    }

    synchronized void goOn() {
        isStalled = false;
        if (owesDemand) {
            owesDemand = false;
            socket.request(1);
        }
    }

    int close() throws InterruptedException {
        send(socket -> socket.sendClose(WebSocket.NORMAL_CLOSURE, ""));
        return closed();
    }

    /** Gives back the credit that was held. */
    synchronized void release() {
        isHolding = false;
        giveBack(0);
    }

    @Override
    public void onOpen(WebSocket socket) {
        // The first message is asked for when the constructor is through.
    }

    @Override
    public synchronized CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
        message = message.concat(ByteString.copyFrom(data));
        if (last) {
            try {
                take(ServerFrame.parseFrom(message), message.size());
            } catch (InvalidProtocolBufferException | RuntimeException problem) {
                failure = problem;
            }
            message = ByteString.EMPTY;
            notifyAll();
        }
        demand(socket);
        return null;
    }

    @Override
    public synchronized CompletionStage<?> onPing(WebSocket socket, ByteBuffer payload) {
        // The library answers by itself.
        demand(socket);
        return null;
    }

    private void demand(WebSocket socket) {
        if (isStalled) {
            owesDemand = true;
        } else {
            socket.request(1);
        }
    }

    @Override
    public synchronized CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        closeCode = code;
        notifyAll();
        return null;
    }

    @Override
    public synchronized void onError(WebSocket socket, Throwable problem) {
        failure = problem;
        notifyAll();
    }

    private void take(ServerFrame frame, int size) {
        switch (frame.getBodyCase()) {
            case PATCH -> {
                patchBytes += size;
                mostUnconfirmed = Math.max(mostUnconfirmed, patchBytes - givenBack);
                patch(frame.getPatch());
                if (credit > 0) {
                    giveBack(Math.min(1024, credit / 4));
                }
                return;
            }
            case SUBSCRIBED -> {
                Subscribed subscribed = frame.getSubscribed();
                if (subscribed.getTopicId() != 0) {
                    Follower follower = followers.computeIfAbsent(subscribed.getTopic(), Follower::new);
                    topics.put(subscribed.getTopicId(), follower);
                    follower.subscribed(subscribed);
                }
                if (frame.getRequest() == 0) {
                    later.add(subscribed);
                }
            }
            case UNSUBSCRIBED -> {
                String left = frame.getUnsubscribed().getTopic();
                topics.values().removeIf(follower -> subscription(follower.name).equals(left));
                subscriptions.remove(left);
            }
            case GO_AWAY -> goAway = frame.getGoAway();
            case ERROR -> lastError = frame.getError();
            default -> {}
        }
        if (frame.getRequest() != 0) {
            answers.get(frame.getRequest()).add(frame);
        }
    }

    private void patch(Patch patch) {
        Follower follower = topics.get(patch.getTopicId());
        if (follower == null) {
            strayPatches++;
            return;
        }
        if (follower.isBroken) {
            return;
        }
        arrivals.add(follower.name);
        String fault = follower.apply(patch);
        if (fault != null) {
            faults.merge(fault, 1, Integer::sum);
            follower.isBroken = true;
            beginSubscribe(Subscribe.newBuilder().setTopic(subscription(follower.name)));
        }
    }

    private void giveBack(long atLeast) {
        long owed = patchBytes - givenBack;
        if (owed > 0 && owed >= atLeast && !isHolding) {
            givenBack += owed;
            send(ClientFrame.newBuilder().setCredit(Credit.newBuilder().setBytes(owed)).build());
        }
    }
}
