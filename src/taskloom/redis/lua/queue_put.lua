-- Accept tasks. Message: {tasks, span}: each {id, due in microseconds, stored, body}; `span`: half
-- the seconds that acknowledged ids are remembered. Returns how many were new.
local tasks, span = message[1], message[2]

-- The names of these sets are made here because only the server knows the time; their slot is that
-- of all keys of the queue.
local spans = {}
for back = 0, 2 do
  spans[#spans + 1] = done .. ':' .. (math.floor(clock[1] / span) - back)
end

-- A stored task has its row: it is put again when it was revived, and never run twice.
local function is_over(id, stored)
  if stored then
    return false
  end
  for _, name in ipairs(spans) do
    if redis.call('SISMEMBER', name, id) == 1 then
      return true
    end
  end
  return false
end

local new = 0
for _, task in ipairs(tasks) do
  local id, due, stored, body = task[1], task[2], task[3], task[4]
  if redis.call('HEXISTS', ids, id) == 0 and not is_over(id, stored) then
    redis.call('HSET', ids, id, '')
    wait(id, due, 0, body)
    new = new + 1
  end
end
if new > 0 then
  ring()
end
return new
