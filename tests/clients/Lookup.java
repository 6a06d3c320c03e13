import java.net.InetAddress;
import java.net.UnknownHostException;

/** Prints every address that the JVM finds for the name in the first argument, one per line; exit 2 when there is none. */
final class Lookup {
    private Lookup() {}

    public static void main(String[] arguments) {
        try {
            for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
                System.out.println(address.getHostAddress());
            }
        } catch (UnknownHostException unknown) {
            System.err.println(unknown.getMessage());
            System.exit(2);
        }
    }
}
