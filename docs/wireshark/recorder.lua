-- Gives Wireshark 4.0 and later the fields proc.name, proc.pid, proc.peer_name and proc.peer_pid, from the comments that
-- `recorder` writes (docs/FORMAT.md). Put it into the folder "Personal Lua Plugins" that Help > About > Folders shows.
--
-- comment                    proc    peer
-- curl[4242]                 curl            the process at this host's end
-- curl[4242] > nginx[99]     curl    nginx   both ends are on this host: the sender, and the receiver
-- curl[4242] > ?             curl            the receiver is not known
-- ? > nginx[99]              nginx           the sender is not known
--
-- So proc is the process of frame.darwin.process_info in 4.6, and names are spelled as they are there: with \xNN.

local process = Proto("proc", "Process")
local fields = {
    name = ProtoField.string("proc.name", "Name"),
    pid = ProtoField.uint32("proc.pid", "Process id"),
    peer_name = ProtoField.string("proc.peer_name", "Name of the peer"),
    peer_pid = ProtoField.uint32("proc.peer_pid", "Process id of the peer"),
}
process.fields = fields
local comments = Field.new("frame.comment")

-- Reads `curl[4242]`. Nothing if it is not spelled as recorder does: a comment may be anybody's.
local function read_end(text)
    local name, digits = text:match("^([^%[%]>%c]+)%[(%d+)%]$")
    if not name or name == "?" or name:match("^ ") or name:match(" $") then return nil end
    if name:gsub("\\x[0-9a-f][0-9a-f]", ""):find("\\", 1, true) then return nil end
    local pid = tonumber(digits)
    if pid > 4294967295 or digits ~= string.format("%.0f", pid) then return nil end
    return { name = name, pid = pid }
end

-- The process and its peer; nothing where they are not known, or the comment is not recorder's.
local function read_comment(comment)
    local sender, receiver = comment:match("^(.-) > (.*)$")
    if not sender then return read_end(comment) end
    if sender == "?" then return read_end(receiver) end
    if receiver == "?" then return read_end(sender) end
    local from, to = read_end(sender), read_end(receiver)
    if from and to then return from, to end
end

function process.dissector(_, _, tree)
    for _, comment in ipairs({ comments() }) do
        local own, peer = read_comment(comment.value)
        if own then
            local branch = tree:add(process)
            branch:set_text("Process: " .. comment.value)
            branch:set_generated()
            branch:add(fields.name, own.name):set_generated()
            branch:add(fields.pid, own.pid):set_generated()
            if peer then
                branch:add(fields.peer_name, peer.name):set_generated()
                branch:add(fields.peer_pid, peer.pid):set_generated()
            end
            return
        end
    end
end

register_postdissector(process)
