import com.google.protobuf.ByteString;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.zip.CRC32;
import tidegate.v1.Tidegate.Patch;
import tidegate.v1.Tidegate.Record;
import tidegate.v1.Tidegate.Subscribed;

/** The state of one topic, by the rules for patches of docs/protocol.md. It outlives its connection. */
final class Follower {
    final String name;
    long epoch;
    long cursor;
    final TreeMap<ByteString, ByteString> keys = new TreeMap<>(ByteString.unsignedLexicographicalComparator());
    /** A number of 32 bits without sign, as it is in the contract. */
    int checksum;
    boolean isCurrent;
    /** After a fault, until the answer to subscribing anew. */
    boolean isBroken;
    final List<Record> events = new ArrayList<>();
    final Map<Long, Long> handedOver = new HashMap<>();
    final List<Patch> patches = new ArrayList<>();
    int snapshots;
    int compared;
    long conflated;
    long expired;
    long overrunAndLost;

    Follower(String name) {
        this.name = name;
    }

    void subscribed(Subscribed subscribed) {
        epoch = subscribed.getEpoch();
        isBroken = false;
        isCurrent = false;
    }

    /** Returns the fault, or null. */
    String apply(Patch patch) {
        if (patch.getReset()) {
            keys.clear();
            checksum = 0;
            cursor = 0;
            snapshots++;
        }
        if (patch.getFrom() != cursor) {
            return "chain";
        }
        long lostAndOverrun = patch.getOverrun() + patch.getLost();
        long sent = patch.getRecordsCount() + patch.getExpired() + lostAndOverrun + patch.getFiltered();
        long merged = patch.getTo() - cursor - sent;
        for (Record record : patch.getRecordsList()) {
            apply(record, record.getOffset() == 0 ? patch.getTo() : record.getOffset());
        }
        for (Record record : patch.getAheadList()) {
            apply(record, record.getOffset());
        }
        cursor = patch.getTo();
        patches.add(patch);
        conflated += merged;
        expired += patch.getExpired();
        overrunAndLost += lostAndOverrun;
        if (merged < 0) {
            return "counts";
        }
        if (patch.hasChecksum()) {
            compared++;
            if (patch.getChecksum() != checksum) {
                return "checksum";
            }
        }
        isCurrent = !patch.getMore();
        return null;
    }

    private void apply(Record record, long offset) {
        if (record.getKey().isEmpty()) {
            if (offset > handedOver.getOrDefault(epoch, 0L)) {
                handedOver.put(epoch, offset);
                events.add(record);
            }
            return;
        }
        ByteString old = keys.remove(record.getKey());
        if (old != null) {
            checksum -= term(record.getKey(), old);
        }
        if (!record.getDelete()) {
            keys.put(record.getKey(), record.getValue());
            checksum += term(record.getKey(), record.getValue());
        }
    }

    /** What one key adds to the checksum. */
    private static int term(ByteString key, ByteString value) {
        CRC32 crc = new CRC32();
        crc.update(new byte[] {(byte) key.size(), 0, 0, 0});
        crc.update(key.toByteArray());
        crc.update(value.toByteArray());
        return (int) crc.getValue();
    }

    boolean isAt(long offset) {
        return isCurrent && !isBroken && cursor >= offset;
    }
}
