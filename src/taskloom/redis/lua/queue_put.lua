-- Accept tasks. Message: {tasks, span}: each {id, due in microseconds, stored, body}; `span`: half
-- the seconds that acknowledged ids are remembered. Returns how many were new.
local tasks, span = message[1], message[2]

local over = {}

-- Which ids were acknowledged not long ago. A stored task is not asked about: it has its row, is put
-- again when it was revived, and never runs twice.
local function note_what_is_over()
  local asked = {}
  for _, task in ipairs(tasks) do
    if not task[3] then
      asked[#asked + 1] = task[1]
    end
  end
  if #asked == 0 then
    return
  end
  for back = 0, 2 do
    local answer = redis.call('SMISMEMBER', over_in(span, back), unpack(asked))
    for place, found in ipairs(answer) do
      over[asked[place]] = over[asked[place]] or found == 1
    end
  end
end

note_what_is_over()
local new = 0
for _, task in ipairs(tasks) do
  local id, due, body = task[1], task[2], task[4]
  if not over[id] and redis.call('HSETNX', ids, id, '') == 1 then
    wait(id, due, 0, body)
    new = new + 1
  end
end
if new > 0 then
  ring()
end
return new
