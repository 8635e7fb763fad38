import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.StreamSupport;
import tidegate.v1.Tidegate.Record;

/** {@code Client URL PREFIX PLAN [--faulty RELAY]} plays the scenario and prints lines of JSON; and what it shares with it. */
final class Client {
    static final int HIGH = 3;
    private static final Gson JSON = new GsonBuilder().serializeNulls().create();
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    private Client() {}

    public static void main(String[] arguments) throws Exception {
        JsonObject plan = JsonParser.parseString(Files.readString(Path.of(arguments[2]))).getAsJsonObject();
        Scenario scenario = new Scenario(arguments[0], arguments[1], plan);
        say("result", arguments.length > 3 ? scenario.playFaulty(arguments[4]) : scenario.play());
        System.exit(0);
    }

    static void say(String name, Object value) {
        OUT.println(JSON.toJson(Map.of(name, value)));
    }

    /** Names and values in turn. */
    static Map<String, Object> object(Object... pairs) {
        Map<String, Object> object = new LinkedHashMap<>();
        for (int at = 0; at < pairs.length; at += 2) {
            object.put((String) pairs[at], pairs[at + 1]);
        }
        return object;
    }

    static Map<String, Object> with(Map<String, Object> object, Object... pairs) {
        Map<String, Object> all = new LinkedHashMap<>(object);
        all.putAll(object(pairs));
        return all;
    }

    /** Records of the plan, for the wire. */
    static List<Record> records(JsonArray records) {
        return StreamSupport.stream(records.spliterator(), false).map(record -> record(record.getAsJsonObject())).toList();
    }

    static Record record(JsonObject record) {
        return Record.newBuilder()
                .setKey(record.has("key") ? ByteString.copyFromUtf8(record.get("key").getAsString()) : ByteString.EMPTY)
                .setValue(record.has("value") ? ByteString.copyFromUtf8(record.get("value").getAsString()) : ByteString.EMPTY)
                .setDelete(record.has("delete"))
                .setPriorityValue(record.has("priority") ? record.get("priority").getAsInt() : 0)
                .setWindowMs(record.has("window_ms") ? record.get("window_ms").getAsInt() : 0)
                .build();
    }

    static List<List<String>> state(Follower follower) {
        List<List<String>> state = new ArrayList<>();
        follower.keys.forEach((key, value) -> state.add(List.of(key.toStringUtf8(), value.toStringUtf8())));
        return state;
    }

    static String checksum(Follower follower) {
        return String.format("%08x", follower.checksum);
    }

    static List<String> important(Follower follower) {
        return follower.events.stream()
                .filter(event -> event.getPriorityValue() >= HIGH)
                .map(event -> event.getValue().toStringUtf8())
                .toList();
    }

    static Map<String, Object> summary(Follower follower) {
        return object("state", state(follower), "checksum", checksum(follower), "important_events", important(follower));
    }
}
