// Reads DNS messages from standard input, each behind its length in two bytes (as over TCP, RFC 1035 §4.2.2), and prints
// for each one line of JSON: what miekg/dns finds in it, or why it is no well-formed message.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/miekg/dns"
)

type question struct {
	Name  string `json:"name"`
	Type  uint16 `json:"type"`
	Class uint16 `json:"class"`
}

type record struct {
	Name  string `json:"name"`
	Type  uint16 `json:"type"`
	Class uint16 `json:"class"`
	TTL   uint32 `json:"ttl"`
	Data  string `json:"data"`
}

type option struct {
	Code uint16 `json:"code"`
	Data string `json:"data"`
}

type opt struct {
	Size    uint16   `json:"size"`
	Version uint8    `json:"version"`
	Do      bool     `json:"do"`
	Z       uint16   `json:"z"`
	Options []option `json:"options"`
}

// Names and rdata in hexadecimal, uncompressed.
type reading struct {
	Error      string     `json:"error,omitempty"`
	ID         uint16     `json:"id"`
	QR         bool       `json:"qr"`
	Opcode     int        `json:"opcode"`
	AA         bool       `json:"aa"`
	TC         bool       `json:"tc"`
	RD         bool       `json:"rd"`
	RA         bool       `json:"ra"`
	Z          bool       `json:"z"`
	AD         bool       `json:"ad"`
	CD         bool       `json:"cd"`
	Rcode      int        `json:"rcode"`
	Question   []question `json:"question"`
	Answer     []record   `json:"answer"`
	Authority  []record   `json:"authority"`
	Additional []record   `json:"additional"`
	Opt        *opt       `json:"opt"`
}

func main() {
	input := bufio.NewReaderSize(os.Stdin, 1<<20)
	output := bufio.NewWriterSize(os.Stdout, 1<<20)
	lines := json.NewEncoder(output)
	for {
		var length uint16
		err := binary.Read(input, binary.BigEndian, &length)
		if err == io.EOF {
			break
		}
		message := make([]byte, length)
		if err == nil {
			_, err = io.ReadFull(input, message)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "half a message:", err)
			os.Exit(1)
		}
		found, err := read(message)
		if err != nil {
			found = &reading{Error: err.Error()}
		}
		if err := lines.Encode(found); err != nil {
			os.Exit(1)
		}
	}
	if output.Flush() != nil {
		os.Exit(1)
	}
}

func read(wire []byte) (*reading, error) {
	var message dns.Msg
	if err := message.Unpack(wire); err != nil {
		return nil, err
	}
	if err := whole(wire); err != nil {
		return nil, err
	}
	found := &reading{
		ID: message.Id, QR: message.Response, Opcode: message.Opcode, AA: message.Authoritative, TC: message.Truncated,
		RD: message.RecursionDesired, RA: message.RecursionAvailable, Z: message.Zero, AD: message.AuthenticatedData,
		CD: message.CheckingDisabled, Rcode: message.Rcode,
		Question: []question{}, Answer: []record{}, Authority: []record{}, Additional: []record{},
	}
	for _, asked := range message.Question {
		name := make([]byte, 256)
		end, err := dns.PackDomainName(asked.Name, name, 0, nil, false)
		if err != nil {
			return nil, err
		}
		found.Question = append(found.Question, question{hex.EncodeToString(name[:end]), asked.Qtype, asked.Qclass})
	}
	for _, section := range []struct {
		from []dns.RR
		to   *[]record
	}{{message.Answer, &found.Answer}, {message.Ns, &found.Authority}, {message.Extra, &found.Additional}} {
		for _, rr := range section.from {
			if pseudo, is := rr.(*dns.OPT); is {
				if found.Opt != nil || section.to != &found.Additional {
					return nil, errors.New("an OPT too many, or in the wrong section")
				}
				if pseudo.Hdr.Name != "." {
					return nil, errors.New("the owner of OPT is not the root")
				}
				read, err := options(pseudo)
				if err != nil {
					return nil, err
				}
				found.Opt = read
				continue
			}
			read, err := flat(rr)
			if err != nil {
				return nil, err
			}
			*section.to = append(*section.to, *read)
		}
	}
	return found, nil
}

// Unpack believes neither counts nor length: a section may be shorter than announced, and bytes may follow the last record.
func whole(wire []byte) error {
	at := 12
	count := func(from int) int { return int(binary.BigEndian.Uint16(wire[from:])) }
	for range count(4) {
		_, end, err := dns.UnpackDomainName(wire, at)
		if err != nil {
			return err
		}
		if at = end + 4; at > len(wire) {
			return errors.New("half a question")
		}
	}
	for range count(6) + count(8) + count(10) {
		if at >= len(wire) {
			return errors.New("fewer records than announced")
		}
		_, end, err := dns.UnpackRR(wire, at)
		if err != nil {
			return err
		}
		at = end
	}
	if at != len(wire) {
		return fmt.Errorf("%d bytes behind the last record", len(wire)-at)
	}
	return nil
}

func flat(rr dns.RR) (*record, error) {
	header := rr.Header()
	name := make([]byte, 256)
	owner, err := dns.PackDomainName(header.Name, name, 0, nil, false)
	if err != nil {
		return nil, err
	}
	wire := make([]byte, dns.Len(rr)+owner+65535)
	end, err := dns.PackRR(rr, wire, 0, nil, false)
	if err != nil {
		return nil, err
	}
	// Type, class, TTL and length are between owner and rdata.
	data := hex.EncodeToString(wire[owner+10 : end])
	return &record{hex.EncodeToString(name[:owner]), header.Rrtype, header.Class, header.Ttl, data}, nil
}

func options(pseudo *dns.OPT) (*opt, error) {
	whole, err := flat(pseudo)
	if err != nil {
		return nil, err
	}
	data, err := hex.DecodeString(whole.Data)
	if err != nil {
		return nil, err
	}
	found := &opt{pseudo.UDPSize(), pseudo.Version(), pseudo.Do(), pseudo.Z(), []option{}}
	for len(data) > 0 {
		// The library has taken the options apart and put them together again.
		end := 4 + int(binary.BigEndian.Uint16(data[2:]))
		found.Options = append(found.Options, option{binary.BigEndian.Uint16(data), hex.EncodeToString(data[4:end])})
		data = data[end:]
	}
	return found, nil
}
