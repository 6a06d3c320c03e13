import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * {@code Client write SERVER TOPIC TEXT} makes a topic with one message; {@code Client read SERVER TOPIC} prints {@code broker
 * NAME:PORT} for each broker that the cluster names, then {@code message TEXT} for the first message.
 */
final class Client {
    private Client() {}

    private static final Duration PATIENCE = Duration.ofSeconds(60);

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> server = Map.of("bootstrap.servers", arguments[1]);
        String topic = arguments[2];
        if (arguments[0].equals("write")) {
            write(server, topic, arguments[3]);
        } else {
            read(server, topic);
        }
    }

    private static void write(Map<String, Object> server, String topic, String text) throws Exception {
        try (Admin admin = Admin.create(server)) {
            admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
        }
        try (var producer = new KafkaProducer<>(server, new StringSerializer(), new StringSerializer())) {
            producer.send(new ProducerRecord<>(topic, text)).get();
        }
    }

    private static void read(Map<String, Object> server, String topic) throws Exception {
        try (Admin admin = Admin.create(server)) {
            for (Node node : admin.describeCluster().nodes().get()) {
                System.out.println("broker " + node.host() + ":" + node.port());
            }
        }
        try (var consumer = new KafkaConsumer<>(server, new StringDeserializer(), new StringDeserializer())) {
            var partition = List.of(new TopicPartition(topic, 0));
            consumer.assign(partition);
            consumer.seekToBeginning(partition);
            for (var record : consumer.poll(PATIENCE)) {
                System.out.println("message " + record.value());
            }
        }
    }
}
