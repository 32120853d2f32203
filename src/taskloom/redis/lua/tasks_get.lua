-- Message: ids. Returns the rows that exist, in that order.
local found = {}
for _, id in ipairs(message) do
  if redis.call('EXISTS', task_key(id)) == 1 then
    found[#found + 1] = read(id)
  end
end
return found
